"""Where keys and values live: block pool, block tables, prefix cache, storage."""
