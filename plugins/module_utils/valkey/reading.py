# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Keys of a server as clients see them, whatever bytes they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import digest
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Client,
    Command,
    ReplyError,
    checked,
)

# Digest, and when it ends: milliseconds since 1970, -1 for never.
Value = tuple[str, int]


def raw(client: Client, commands: Sequence[Command]) -> list[Any]:
    """Do commands and return the replies with strings as bytes; an error reply stands in its place as ReplyError."""
    client.send(commands)
    found = []
    for command in commands:
        reply = client.receive_raw()
        found.append(ReplyError(client.endpoint, command[:1], str(reply)) if isinstance(reply, Exception) else reply)
    return found


def read(client: Client, keys: Sequence[bytes], database: int = 0) -> dict[bytes, Value]:
    """Return digest and end of each key that a database has; it stays selected. Raises ReplyError for a database that is not there."""
    checked(raw(client, [("SELECT", database)])[0])
    kinds = raw(client, [("TYPE", key) for key in keys])
    known = [(key, kind.decode()) for key, kind in zip(keys, kinds, strict=True) if isinstance(kind, bytes)]
    known = [(key, kind) for key, kind in known if kind in digest.TYPES]
    commands = [c for key, kind in known for c in (("PEXPIRETIME", key), digest.reader(kind, key))]
    answers = raw(client, commands)
    found = {}
    for (key, kind), ends, value in zip(known, answers[::2], answers[1::2], strict=True):
        if isinstance(value, ReplyError) or isinstance(ends, ReplyError) or ends == -2 or value is None or value == []:
            continue
        found[key] = (digest.digest(kind, value), ends)
    return found
