"""Backups of a Valkey cluster and the way back."""
