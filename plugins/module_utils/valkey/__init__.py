"""A Valkey cluster: what its servers say, its shape, and the talk with them."""
