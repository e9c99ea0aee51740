"""etcd: its members, users and keys, and the client that asks for them."""
