"""PgBouncer: its console and pools, on this host and on others."""
