"""The load generator behind loadtest/serve.py and loadtest/served.py. Knows servers by their HTTP only."""
