"""A Valkey cluster: its shape, what its servers report, and the connections to them."""
