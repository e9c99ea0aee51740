# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""URLs of hosts. No I/O."""

from __future__ import annotations


def uri_host(address: str) -> str:
    """Return an address as a URL has it: IPv6 in brackets (RFC 3986, section 3.2.2)."""
    return f"[{address}]" if ":" in address and not address.startswith("[") else address


def url(address: str, port: int | str, scheme: str = "https") -> str:
    """Return the URL of a port of a host."""
    return f"{scheme}://{uri_host(address)}:{port}"
