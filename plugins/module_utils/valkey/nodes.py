# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The option `nodes` of the Valkey modules, and what becomes of it."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Endpoint
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.shape import Declared

NODE_OPTIONS: dict[str, Any] = {
    "address": {"type": "str", "required": True},
    "port": {"type": "int", "required": True},
    "host": {"type": "str"},
    "zone": {"type": "str", "default": ""},
    "weight": {"type": "float", "default": 1.0},
    "role": {"type": "str", "choices": ["primary", "replica"]},
    "slots": {"type": "str", "default": ""},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def declared_node(item: Mapping[str, Any]) -> Declared:
    """Turn one item of the option nodes into a Declared. Raises Refusal for slots that are none, and the like."""
    if not math.isfinite(item["weight"]):
        raise Refusal(
            f"{item['address']}:{item['port']}: weight {item['weight']} is not a number", "Write one such as 1.5"
        )
    try:
        pinned = ranges.parse_ranges(item["slots"])
    except ValueError as error:
        raise Refusal(f"{item['address']}:{item['port']}: {error}", "Write slots as 0-99 1000") from error
    return Declared(
        endpoint=Endpoint(resolved(item["address"]), item["port"]),
        host=item["host"] or item["address"],
        zone=item["zone"],
        weight=Fraction(str(item["weight"])),
        role=item["role"] or "",
        pinned=pinned,
        present=item["state"] == "present",
    )


def resolved(address: str) -> str:
    """Servers meet by numeric address only."""
    try:
        return str(socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise Refusal(f"{address}: name not found ({error})", "Declare an address that resolves") from error


def endpoints(words: Iterable[str]) -> tuple[Endpoint, ...]:
    """Turn address:port, an IPv6 address in brackets, into endpoints. Raises Refusal."""
    return tuple(_endpoint(word) for word in words)


def _endpoint(word: str) -> Endpoint:
    address, _colon, port = word.rpartition(":")
    if not address or not port.isdigit():
        raise Refusal(f"{word!r} is not an address:port", "Write 198.18.0.11:7001 or [2001:db8::1]:7001")
    return Endpoint(resolved(address.strip("[]")), int(port))
