"""Backups of a Valkey cluster, and how they are restored."""
