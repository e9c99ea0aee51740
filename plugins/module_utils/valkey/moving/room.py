# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Whether servers have room in memory for what slots would bring them. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.slots import Move
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import Server


@dataclass(frozen=True)
class Load:
    """What one move brings: its number of keys."""

    move: Move
    keys: int


def limited(moves: Iterable[Move], servers: Mapping[str, Server]) -> list[Move]:
    """Return the moves to servers whose memory is limited: those of which one has to know the keys."""
    return [move for move in moves if servers[move.target].max_memory and move.source]


def check(loads: Sequence[Load], servers: Mapping[str, Server], names: Mapping[str, str]) -> None:
    """Raise Refusal when a server would have to hold more than its `maxmemory`.

    servers: by id. A key is taken to be as large as its server's keys are on the average.
    """
    wanted: dict[str, float] = {}
    for load in loads:
        source = servers[load.move.source]
        wanted[load.move.target] = wanted.get(load.move.target, 0) + load.keys * average(source)
    missing = {
        node: (size, servers[node].max_memory - servers[node].data_memory)
        for node, size in wanted.items()
        if size > servers[node].max_memory - servers[node].data_memory
    }
    if not missing:
        return
    found = ", ".join(
        f"{names.get(node, node)} would get about {mebibytes(size)} and has room for {mebibytes(max(0, room))}"
        f" (maxmemory {mebibytes(servers[node].max_memory)})"
        for node, (size, room) in sorted(missing.items(), key=lambda item: names.get(item[0], item[0]))
    )
    raise Refusal(
        f"no room for the data: {found}",
        "Raise maxmemory, add nodes or keep more of them; check_room false moves anyway, and servers then evict keys or refuse writes",
    )


def average(server: Server) -> float:
    """Bytes of memory for each key of a server."""
    return server.key_memory / server.keys if server.keys else 0.0


def mebibytes(size: float) -> str:
    """Return a size as people read it."""
    return f"{size / 1024 / 1024:.1f} MiB"
