# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Patroni's cluster: its state, configuration and switchover, and what the programs beside it decide."""
