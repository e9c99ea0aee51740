"""Breaks a real cluster while clients write, and checks every acknowledged write afterwards."""
