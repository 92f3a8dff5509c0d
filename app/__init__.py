"""HTTP, command line and offline API: what a person or a client meets."""
