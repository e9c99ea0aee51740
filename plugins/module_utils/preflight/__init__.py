"""Rules over an inventory and its hosts, before anything changes."""
