"""Certificates and authorities on the controller: issued, kept, rotated."""
