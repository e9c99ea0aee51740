# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The databases of a cluster: one before Valkey 9.0, as many as the setting `cluster-databases` says since. No I/O.

A slot has its keys in all of them, but CLUSTER COUNTKEYSINSLOT, CLUSTER GETKEYSINSLOT and MIGRATE see the one that a
connection has selected (https://valkey.io/commands/cluster-countkeysinslot/).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Command, checked

SETTING = "cluster-databases"


def limit(reply: Sequence[str]) -> int:
    """Return how many databases a server has, out of its reply to CONFIG GET of the setting: 1 where it has no such setting."""
    return int(dict(zip(reply[::2], reply[1::2], strict=True)).get(SETTING, 1))


def counting(slots: Collection[int], databases: Collection[int]) -> list[Command]:
    """Return the commands that count the keys of slots in databases. The connection is in database 0 after them."""
    counts = [("CLUSTER", "COUNTKEYSINSLOT", slot) for slot in slots]
    return [*(command for database in databases for command in (("SELECT", database), *counts)), ("SELECT", 0)]


def counted(slots: Collection[int], databases: Collection[int], replies: Sequence[Any]) -> dict[int, dict[int, int]]:
    """Return by slot and database the numbers of keys, 0 left out, from the replies to `counting`. Raises ReplyError."""
    answers = iter([checked(reply) for reply in replies])
    found: dict[int, dict[int, int]] = {slot: {} for slot in slots}
    for database in databases:
        next(answers)
        for slot in slots:
            number = next(answers)
            if number:
                found[slot][database] = number
    return found


def total(counts: Mapping[int, int]) -> int:
    """Return how many keys a slot has in all databases."""
    return sum(counts.values())
