"""The collection's own programs on the controller: what code each needs."""
