"""PgBouncer: its console and pools, here and on other hosts."""
