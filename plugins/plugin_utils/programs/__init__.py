"""What a program on a host needs from the collection, collected on the controller."""
