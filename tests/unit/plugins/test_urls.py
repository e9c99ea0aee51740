# SPDX-License-Identifier: Apache-2.0
"""URLs of hosts, and that nothing writes brackets of its own."""

from __future__ import annotations

import ipaddress
import urllib.parse
from pathlib import Path

import pytest
from ansible_collections.holdfast.persistence.plugins.plugin_utils.urls import uri_host, url
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[3]


@given(st.ip_addresses() | st.sampled_from(["node1", "db.example.org"]), st.integers(1, 65535))
def test_a_url_leads_back_to_host_and_port(address: object, port: int) -> None:
    found = urllib.parse.urlsplit(url(str(address), port))
    assert (found.scheme, found.port) == ("https", port)
    if isinstance(address, str):
        assert found.hostname == address
    else:
        assert ipaddress.ip_address(found.hostname or "") == address


@pytest.mark.parametrize(
    ("address", "host"), [("::1", "[::1]"), ("[::1]", "[::1]"), ("192.0.2.1", "192.0.2.1"), ("node1", "node1")]
)
def test_only_ipv6_gets_brackets_and_once(address: str, host: str) -> None:
    assert uri_host(address) == host


def test_another_scheme() -> None:
    assert url("::1", 9000, "http") == "http://[::1]:9000"


def test_roles_and_playbooks_leave_brackets_to_the_filters() -> None:
    files = [
        path
        for folder in ("roles", "playbooks")
        for suffix in ("yml", "j2")
        for path in (ROOT / folder).rglob(f"*.{suffix}")
    ]
    assert files
    assert [str(path) for path in files if "^(.*:.*)$" in path.read_text()] == []
