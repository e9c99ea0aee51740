# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Waits until the servers of a cluster agree: whom they know, who owns what, whose link is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Endpoint,
    Fleet,
    ReplyError,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import (
    Sight,
    parse_info,
    parse_nodes,
    parse_sight,
)

POLL = 0.03
NOT_YET = ("LOADING", "MASTERDOWN", "BUSY")


@dataclass(frozen=True)
class Disagreement:
    """Why servers don't agree yet: the server and what is missing there."""

    endpoint: Endpoint
    reason: str


def unsettled(seconds: float, disagreements: Sequence[Disagreement]) -> Refusal:
    """Return the refusal to continue with servers that did not come to agree within so many seconds."""
    found = "; ".join(f"{item.endpoint}: {item.reason}" for item in disagreements[:5])
    return Refusal(
        f"after {seconds:.0f} s the servers don't agree: {found}",
        "Check that every node reaches the others' client and bus ports, then run again",
    )


class Agreement:
    """What servers have to agree on. wait_timeout: seconds in which they have to after a change."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        wait_timeout: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.fleet = fleet
        self.wait_timeout = wait_timeout
        self.clock = clock
        self.sleep = sleep

    def agree(self, endpoints: Sequence[Endpoint], replicas: Iterable[str] = ()) -> None:
        """Wait until servers know each other and have the same owners, roles and epochs, and links of replicas are up.

        replicas: ids of the replicas whose links are waited for. Raises Refusal after wait_timeout, ValkeyError.
        """
        self._wait_for(lambda: self.disagreements(endpoints, set(replicas)), len(endpoints))

    def await_serving(self, endpoints: Sequence[Endpoint]) -> None:
        """Wait until servers serve: one that has just started, or was cut off, says CLUSTERDOWN for up to 5 s after it is back.

        Source: clusterUpdateState of Valkey 8.1 (CLUSTER_WRITABLE_DELAY, CLUSTER_MAX_REJOIN_DELAY). Raises Refusal after
        wait_timeout, ValkeyError.
        """
        self._wait_for(lambda: self.not_serving(endpoints), len(endpoints))

    def await_open(self, endpoints: Sequence[Endpoint]) -> None:
        """Wait until servers know each other and, where all slots have owners, serve. Raises Refusal after wait_timeout, ValkeyError."""
        self._wait_for(lambda: self._not_open(endpoints), len(endpoints))

    def await_known(self, endpoints: Sequence[Endpoint]) -> None:
        """Wait until servers know each other and the owner of every slot. Raises Refusal after wait_timeout, ValkeyError."""
        self._wait_for(lambda: self._not_knowing(endpoints), len(endpoints))

    def await_owners(self, endpoints: Sequence[Endpoint], slots: Iterable[int]) -> None:
        """Wait until servers know an owner of each of these slots: one that does not yet takes no key of the slot.

        The owner may have got the slot a moment ago (CLUSTER ADDSLOTS), and the others hear of that by gossip.
        Source: getNodeByQuery of Valkey 8.1 (CLUSTER_REDIR_DOWN_UNBOUND, "CLUSTERDOWN Hash slot not served").
        Raises Refusal after wait_timeout, ValkeyError.
        """
        wanted = frozenset(slots)
        self._wait_for(lambda: self._without_owner(endpoints, wanted), len(endpoints))

    def await_leading(self, endpoint: Endpoint) -> None:
        """Wait until a server is a primary. Raises Refusal after wait_timeout, ValkeyError."""
        start = self.clock()
        while not parse_nodes(self.fleet.client(endpoint).call("CLUSTER", "NODES")).myself.is_primary:
            if self.clock() - start > self.wait_timeout:
                reason = Disagreement(endpoint, "did not take over from its primary")
                raise unsettled(self.clock() - start, [reason])
            self.sleep(POLL)

    def disagreements(self, endpoints: Sequence[Endpoint], replicas: set[str]) -> list[Disagreement]:
        """Return what servers don't agree on now; the cheap questions first. Raises ValkeyError."""
        return self._not_open(endpoints) or self._differing(endpoints, replicas)

    def _not_open(self, endpoints: Sequence[Endpoint]) -> list[Disagreement]:
        missing = []
        for endpoint, reply in self._ask(endpoints, "CLUSTER", "INFO").items():
            if isinstance(reply, ReplyError):
                missing.append(Disagreement(endpoint, reply.problem))
                continue
            info = parse_info(reply)
            if int(info["cluster_known_nodes"]) < len(endpoints):
                missing.append(Disagreement(endpoint, f"knows {info['cluster_known_nodes']} of {len(endpoints)} nodes"))
            elif info["cluster_state"] != "ok" and int(info["cluster_slots_assigned"]) == ranges.SLOT_COUNT:
                missing.append(Disagreement(endpoint, "cluster_state is not ok"))
        return missing

    def _not_knowing(self, endpoints: Sequence[Endpoint]) -> list[Disagreement]:
        missing = []
        for endpoint, reply in self._ask(endpoints, "CLUSTER", "INFO").items():
            info = {} if isinstance(reply, ReplyError) else parse_info(reply)
            nodes, slots = (int(info.get(name, 0)) for name in ("cluster_known_nodes", "cluster_slots_assigned"))
            if nodes < len(endpoints) or slots < ranges.SLOT_COUNT:
                missing.append(
                    Disagreement(endpoint, f"knows {nodes} of {len(endpoints)} nodes and the owners of {slots} slots")
                )
        return missing

    def _without_owner(self, endpoints: Sequence[Endpoint], slots: frozenset[int]) -> list[Disagreement]:
        missing = []
        for endpoint, reply in self._ask(endpoints, "CLUSTER", "NODES").items():
            unknown = slots if isinstance(reply, ReplyError) else slots - parse_nodes(reply).owners.keys()
            if unknown:
                missing.append(Disagreement(endpoint, f"knows no owner of slot {min(unknown)}"))
        return missing

    def _differing(self, endpoints: Sequence[Endpoint], replicas: set[str]) -> list[Disagreement]:
        replies = self._ask(endpoints, "CLUSTER", "NODES")
        late = [Disagreement(e, r.problem) for e, r in replies.items() if isinstance(r, ReplyError)]
        if late:
            return late
        sights = {endpoint: parse_sight(reply) for endpoint, reply in replies.items()}
        missing = [Disagreement(e, reason) for e, sight in sights.items() if (reason := _unsettled(sight))]
        common = next(iter(sights.values())).signature
        missing += [Disagreement(e, "sees another topology") for e, s in sights.items() if s.signature != common]
        return missing or self._links_down([e for e, sight in sights.items() if sight.me in replicas])

    def _links_down(self, endpoints: Sequence[Endpoint]) -> list[Disagreement]:
        replies = self._ask(endpoints, "INFO", "replication")
        return [
            Disagreement(endpoint, "the link to its primary is not up")
            for endpoint, reply in replies.items()
            if isinstance(reply, ReplyError) or parse_info(reply).get("master_link_status") != "up"
        ]

    def not_serving(self, endpoints: Sequence[Endpoint]) -> list[Disagreement]:
        """Return which servers do not serve now. Raises ValkeyError."""
        replies = self._ask(endpoints, "CLUSTER", "INFO")
        return [
            Disagreement(endpoint, "cluster_state is not ok")
            for endpoint, reply in replies.items()
            if isinstance(reply, ReplyError) or parse_info(reply)["cluster_state"] != "ok"
        ]

    def _wait_for(self, missing: Callable[[], list[Disagreement]], servers: int) -> None:
        start = self.clock()
        while found := missing():
            if self.clock() - start > self.wait_timeout:
                raise unsettled(self.clock() - start, found)
            self.sleep(max(POLL, servers * 0.001))

    def _ask(self, endpoints: Sequence[Endpoint], *command: str) -> dict[Endpoint, Any]:
        """Ask many servers; an error that passes by itself stands in its place as ReplyError."""
        found = {}
        for endpoint, [reply] in self.fleet.each({e: [command] for e in endpoints}).items():
            if isinstance(reply, ReplyError) and reply.problem.split(": ", 1)[-1].split(" ")[0] not in NOT_YET:
                raise reply
            found[endpoint] = reply
        return found


def _unsettled(sight: Sight) -> str:
    if sight.handshake:
        return "is still meeting nodes"
    return f"has no link to {', '.join(sight.unlinked[:3])}" if sight.unlinked else ""
