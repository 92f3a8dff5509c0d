"""The load generator of load.py and served_table.py. Knows servers by their HTTP only."""
