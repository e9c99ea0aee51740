"""Backups of every engine: what was made, what is proven, what is kept, and when the next one is due."""
