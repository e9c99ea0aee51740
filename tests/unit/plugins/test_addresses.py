# SPDX-License-Identifier: Apache-2.0
"""The addresses filter: one rule for the address under which a host's peers reach it."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.filter.addresses import FilterModule, addresses
from hypothesis import given
from hypothesis import strategies as st

from .conftest import Evaluate

HOSTVARS: dict[str, dict[str, str | None]] = {
    "both": {"cluster_address": "192.0.2.1", "ansible_host": "203.0.113.1"},
    "reached": {"ansible_host": "203.0.113.2"},
    "named": {},
    "emptied": {"cluster_address": "", "ansible_host": "203.0.113.4"},
    "nothing": {"cluster_address": None, "ansible_host": None},
}


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("both", "192.0.2.1"),
        ("reached", "203.0.113.2"),
        ("named", "named"),
        ("emptied", "203.0.113.4"),
        ("nothing", "nothing"),
    ],
)
def test_first_of_cluster_address_ansible_host_and_name(host: str, address: str) -> None:
    assert addresses([host], HOSTVARS) == {host: address}


@given(st.permutations(sorted(HOSTVARS)))
def test_keeps_the_order_of_the_hosts(hosts: list[str]) -> None:
    assert list(addresses(hosts, HOSTVARS)) == hosts


def test_unknown_host_is_an_error() -> None:
    with pytest.raises(KeyError, match="stranger"):
        addresses(["stranger"], HOSTVARS)


def test_is_a_filter_of_the_collection(evaluate: Evaluate) -> None:
    result = evaluate("{{ ['both', 'named'] | holdfast.persistence.addresses(hosts) }}", hosts=HOSTVARS)
    assert result["msg"] == {"both": "192.0.2.1", "named": "named"}
    assert FilterModule().filters() == {"addresses": addresses}
