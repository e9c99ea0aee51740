"""The collection's own programs on a host: their folders, and what earlier releases left."""
