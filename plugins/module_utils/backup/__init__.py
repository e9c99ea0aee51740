"""Backups of every engine: what was made, what is proved, what is kept, when the next is due."""
