"""Packages: where they come from, which version is wanted."""
