"""Slots and their keys on their way between servers."""
