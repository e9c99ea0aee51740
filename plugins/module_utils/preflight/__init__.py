"""Rules over an inventory and its hosts, applied before anything changes."""
