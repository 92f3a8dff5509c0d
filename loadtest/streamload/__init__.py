"""The load generator behind loadtest/load.py and loadtest/served_table.py. Knows servers by their HTTP only."""
