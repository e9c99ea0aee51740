"""Certificates and authorities on the controller: issued, stored, rotated."""
