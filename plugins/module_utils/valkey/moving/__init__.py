"""Slots and their keys while they move between servers."""
