# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Libraries of functions: every primary needs the same, since each is asked for the keys of its slots.

A server hands libraries to its replicas, never to other primaries (https://valkey.io/topics/functions-intro/, "Functions in
cluster"), and moving slots, by whatever way, takes none along.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Endpoint,
    Fleet,
    checked,
)

LIST = ("FUNCTION", "LIST", "WITHCODE")

# Code by the library's name.
Libraries = Mapping[str, str]


@dataclass(frozen=True)
class Load:
    """A library that a node gets: name and code; replace where it has another one of that name."""

    node: str
    name: str
    code: str
    replace: bool = False


def parse_libraries(reply: Sequence[Any]) -> dict[str, str]:
    """Read the reply of FUNCTION LIST WITHCODE: flat lists of names and values, or maps."""
    items = [item if isinstance(item, Mapping) else dict(zip(item[::2], item[1::2], strict=True)) for item in reply]
    return {item["library_name"]: item["library_code"] for item in items}


def read(fleet: Fleet, endpoints: Iterable[Endpoint]) -> dict[Endpoint, dict[str, str]]:
    """Return the libraries of servers. Raises ValkeyError."""
    return {endpoint: parse_libraries(reply) for endpoint, reply in fleet.all(endpoints, *LIST).items()}


def plan(libraries: Mapping[str, Libraries], owners: Collection[str], targets: Collection[str]) -> tuple[Load, ...]:
    """Return what nodes lack before they get slots.

    Parameters: libraries, by node, of owners and targets; owners, primaries that own slots; targets, who is to get some. A target
    that owns none gets what the owners have, in the code that most of them have; one that owns slots gets only what it has not at all.
    """
    wished = _common(libraries[owner] for owner in sorted(owners))
    found = []
    for node in sorted(targets):
        has = libraries[node]
        for name, code in wished.items():
            if name not in has or (node not in owners and has[name] != code):
                found.append(Load(node, name, code, replace=name in has))
    return tuple(found)


def _common(libraries: Iterable[Libraries]) -> dict[str, str]:
    """Return for each name the code that most have, of equals the first."""
    codes: dict[str, Counter[str]] = {}
    for each in libraries:
        for name, code in each.items():
            codes.setdefault(name, Counter())[code] += 1
    return {name: found.most_common(1)[0][0] for name, found in sorted(codes.items())}


def load(fleet: Fleet, loads: Iterable[Load], endpoint_of: Mapping[str, Endpoint]) -> None:
    """Load libraries where they are lacking. Raises ValkeyError."""
    commands: dict[Endpoint, list[Sequence[Any]]] = {}
    for item in loads:
        words = ("FUNCTION", "LOAD", *(("REPLACE",) if item.replace else ()))
        # What is not UTF-8 came as surrogates.
        code = item.code.encode("utf-8", "surrogateescape")
        commands.setdefault(endpoint_of[item.node], []).append((*words, code))
    for replies in fleet.each(commands).values():
        for reply in replies:
            checked(reply)


def digest(code: str) -> str:
    """Return a short digest of a library's code, for people."""
    return hashlib.sha256(code.encode("utf-8", "surrogateescape")).hexdigest()[:12]
