# SPDX-License-Identifier: Apache-2.0
"""The networks that lines of pg_hba.conf admit."""

from __future__ import annotations

import ipaddress

import pytest
from ansible_collections.holdfast.persistence.plugins.filter.hba_networks import hba_networks
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("lines", "networks"),
    [
        (["hostssl all all 192.0.2.0/24 scram-sha-256"], ["192.0.2.0/24"]),
        (["host orders app 192.0.2.7 255.255.255.0 md5"], ["192.0.2.0/24"]),
        (["host all all 192.0.2.9/32 reject", "host all all 192.0.2.9 255.255.255.255 reject"], []),
        (["host all all all scram-sha-256"], ["0.0.0.0/0", "::/0"]),
        (['hostssl "a b" +group 2001:db8::/48 cert clientcert=verify-full map=x'], ["2001:db8::/48"]),
        (
            [
                "local all all peer",
                "host all all samenet md5",
                "host all all db.example md5",
                "# host all all 192.0.2.1/32 md5",
            ],
            [],
        ),
        (["host all all 127.0.0.1/32 trust", "host all all ::1/128 trust"], []),
        (["host a b 192.0.2.1/32 md5", "host c d 192.0.2.1/32 md5"], ["192.0.2.1/32"]),
        (["host all"], []),
    ],
)
def test_networks_of_lines(lines: list[str], networks: list[str]) -> None:
    assert hba_networks(lines) == networks


@given(st.ip_addresses(), st.integers(0, 128))
def test_every_network_that_is_admitted_is_found(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, bits: int
) -> None:
    network = ipaddress.ip_network(f"{address}/{min(bits, address.max_prefixlen)}", strict=False)
    wanted = [] if network.is_loopback else [str(network)]
    assert hba_networks([f"hostssl all app {address}/{network.prefixlen} scram-sha-256"]) == wanted
