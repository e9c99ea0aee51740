"""The Valkey servers of one host: their files, settings and processes."""
