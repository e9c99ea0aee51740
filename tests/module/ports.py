# SPDX-License-Identifier: Apache-2.0
"""Ports of loopback for the servers of tests."""

from __future__ import annotations

import itertools
import os
import socket

# Below the ports of outgoing connections (net.ipv4.ip_local_port_range begins at 32768), which could take one before its server
# has started; and so that the bus ports of Valkey, which are higher by BUS, are nobody else's.
FIRST = 10_000
SPAN = 9_500
BUS = 10_000
# Runs side by side begin elsewhere.
_places = itertools.count(os.getpid() * 250)


def free_ports(number: int) -> list[int]:
    """Return ports in a row, 250 at most, that nobody uses and whose bus ports nobody uses; none comes again until all others have."""
    for _attempt in range(SPAN):
        first = FIRST + next(_places) % SPAN
        row = list(range(first, first + number))
        if all(is_free(port) and is_free(port + BUS) for port in row):
            for _given in row[1:]:
                next(_places)
            return row
    raise AssertionError("no free ports on loopback")


def is_free(port: int) -> bool:
    """Whether nobody listens on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
