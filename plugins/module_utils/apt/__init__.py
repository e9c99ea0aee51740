"""Packages: where they come from and which version is wanted."""
