# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What a key holds, as a digest that two servers agree on whatever their hash seeds and encodings are. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

# How a key of each type is read as a whole. Sets, hashes and sorted sets have no order that servers share.
_READERS: Mapping[str, tuple[str, tuple[str, ...], int]] = {
    "string": ("GET", (), 0),
    "list": ("LRANGE", ("0", "-1"), 0),
    "set": ("SMEMBERS", (), 1),
    "hash": ("HGETALL", (), 2),
    "zset": ("ZRANGE", ("0", "-1", "WITHSCORES"), 2),
    "stream": ("XRANGE", ("-", "+"), 0),
}
TYPES = tuple(_READERS)

# First byte of the DUMP payload of a hash whose fields expire one by one (Valkey 9 and later).
EXPIRING_FIELDS = 22


def reader(kind: str, key: bytes) -> list[Any]:
    """Return the command that reads a key of a type of TYPES."""
    name, words, _group = _READERS[kind]
    return [name, key, *words]


def digest(kind: str, reply: Any) -> str:
    """Return the digest of what reader's command answered, strings as bytes."""
    group = _READERS[kind][2]
    if group:
        reply = sorted(tuple(reply[start : start + group]) for start in range(0, len(reply), group))
    found = hashlib.sha256(kind.encode())
    _feed(found, reply)
    return found.hexdigest()


def _feed(found: Any, item: Any) -> None:
    """Feed a reply with the lengths of its parts, so that no two replies look the same."""
    if isinstance(item, Sequence) and not isinstance(item, (bytes, str)):
        found.update(b"*%d" % len(item))
        for part in item:
            _feed(found, part)
        return
    data = item if isinstance(item, bytes) else str(item).encode()
    found.update(b"$%d:" % len(data))
    found.update(data)


def is_lasting(payload: bytes) -> bool:
    """Whether the value of a key, by its DUMP payload, stays as it is until somebody writes it."""
    return payload[:1] != bytes([EXPIRING_FIELDS])
