"""What is known of certificates without a library."""
