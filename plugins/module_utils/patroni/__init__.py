"""Patroni's cluster: its state, configuration and switchover, and what the programs beside it decide."""
