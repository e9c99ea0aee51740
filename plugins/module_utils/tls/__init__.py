"""What can be told about certificates without a library."""
