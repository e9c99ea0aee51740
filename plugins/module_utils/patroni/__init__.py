"""Patroni's cluster: its state, configuration and switchover, and what programs beside it decide."""
