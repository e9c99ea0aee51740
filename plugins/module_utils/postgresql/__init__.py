"""PostgreSQL servers: replication and its rules, settings, passwords."""
