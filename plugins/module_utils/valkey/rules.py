# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Rules for replication in a Valkey cluster: from declared nodes and what servers say to findings. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.findings import Finding, by_severity
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import databases, functions, ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Endpoint
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.placement import crowded, survivable
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.shape import Declared, State, States, names_of

CONVERGE = "Run site.yml (or valkey_cluster), which repairs it"
LOAD = "Load the right code there: FUNCTION LOAD REPLACE, see the runbook valkey-functions"


@dataclass(frozen=True)
class Limits:
    """What the rules allow. replicas: for each primary. Lags in bytes behind the primary, silence in seconds."""

    replicas: int = 1
    lag_warning: int = 1024 * 1024
    lag_critical: int = 64 * 1024 * 1024
    silence: int = 30


def check(
    declared: Sequence[Declared], states: States, errors: Mapping[Endpoint, str], limits: Limits
) -> list[Finding]:
    """Return the findings, worst first.

    states: of the servers that answered. errors: why the others didn't, by endpoint.
    """
    said = (declared, states, errors, limits)
    return by_severity([*_Members(*said).findings(), *_Shards(*said).findings()])


class _Seen:
    """What was declared and what servers said."""

    def __init__(
        self, declared: Sequence[Declared], states: States, errors: Mapping[Endpoint, str], limits: Limits
    ) -> None:
        self.declared = [node for node in declared if node.present]
        self.errors = errors
        self.limits = limits
        self.node_of = {states[n.endpoint].id: n for n in self.declared if n.endpoint in states}
        self.states = {identity: states[node.endpoint] for identity, node in self.node_of.items()}
        self.names = names_of(declared, states)

    def _name(self, node: str) -> str:
        return self.names.get(node, node)

    @property
    def primaries(self) -> dict[str, State]:
        """Declared primaries that own slots, as they see themselves."""
        return {n: s for n, s in self.states.items() if s.view.myself.is_primary and s.view.myself.slots}

    @property
    def followers(self) -> dict[str, State]:
        """Declared replicas."""
        return {n: s for n, s in self.states.items() if s.view.myself.is_replica}


class _Members(_Seen):
    """Who is in the cluster, and whether all see the same."""

    def findings(self) -> Iterator[Finding]:
        """Return what does not hold."""
        yield from self._unreachable()
        if not self.states:
            return
        yield from self._membership()
        yield from self._agreement()
        yield from self._flags()
        yield from self._pace()
        yield from self._databases()

    def _unreachable(self) -> Iterator[Finding]:
        for node in self.declared:
            if node.endpoint in self.errors:
                yield Finding(
                    "node_unreachable",
                    "critical",
                    node.name,
                    self.errors[node.endpoint],
                    "every declared node answers",
                    "Start the instance, or replace its host (replace_node.yml)",
                )

    def _membership(self) -> Iterator[Finding]:
        for node, state in self.states.items():
            if state.view.alone and len(self.declared) > 1:
                yield Finding(
                    "node_outside", "critical", self._name(node), "knows no other node",
                    "every declared node is a member", CONVERGE,
                )  # fmt: skip
        known = {node.id for state in self.states.values() for node in state.view.members}
        for node in sorted(known.difference(self.node_of)):
            if not self._declared_but_silent(node):
                yield Finding(
                    "node_undeclared", "warning", self._name(node), f"is a member ({node})",
                    "members are declared", "Declare it, or take it out of the cluster with state absent",
                )  # fmt: skip

    def _declared_but_silent(self, node: str) -> bool:
        """True for a member whose address is that of a declared node that does not answer."""
        silent = set(self.errors)
        for state in self.states.values():
            known = state.view.by_id.get(node)
            if known is not None and Endpoint(known.address, known.port) in silent:
                return True
        return False

    def _agreement(self) -> Iterator[Finding]:
        members = {node: state for node, state in self.states.items() if not state.view.alone}
        signatures = Counter(state.view.signature for state in members.values())
        if len(signatures) > 1:
            common = signatures.most_common(1)[0][0]
            others = [self._name(node) for node, state in members.items() if state.view.signature != common]
            yield Finding(
                "topology_disagreement",
                "critical",
                ", ".join(others),
                "other owners, roles or configuration epochs than the rest sees",
                "all nodes see the same topology and epochs",
                "Wait a node timeout; if it stays, check the bus ports between the hosts",
            )
        epochs = Counter(state.view.myself.epoch for state in self.primaries.values())
        double = sorted(epoch for epoch, number in epochs.items() if number > 1)
        for epoch in double:
            sharing = [self._name(n) for n, s in self.primaries.items() if s.view.myself.epoch == epoch]
            yield Finding(
                "epoch_collision", "warning", ", ".join(sharing), f"configuration epoch {epoch}",
                "each primary has its own configuration epoch", "Run CLUSTER BUMPEPOCH on one of them",
            )  # fmt: skip

    def _flags(self) -> Iterator[Finding]:
        failed: dict[str, set[str]] = {}
        suspected: dict[str, set[str]] = {}
        for observer, state in self.states.items():
            for node in state.view.members:
                if node.failed:
                    failed.setdefault(node.id, set()).add(observer)
                elif node.suspected:
                    suspected.setdefault(node.id, set()).add(observer)
        for rule, severity, found in (("node_failed", "critical", failed), ("node_suspected", "warning", suspected)):
            for where, observers in sorted(found.items()):
                if rule == "node_suspected" and where in failed:
                    continue
                yield Finding(
                    rule, severity, self._name(where), f"down for {len(observers)} of {len(self.states)} nodes",
                    "no node is seen as down", "Start the instance, or check its bus port from those hosts",
                )  # fmt: skip

    def _pace(self) -> Iterator[Finding]:
        for node, state in self.states.items():
            if state.pace is not None:
                yield Finding(
                    "formation_pace", "warning", self._name(node), "gossips at the pace of an interrupted formation",
                    "the server's own pace", CONVERGE,
                )  # fmt: skip

    def _databases(self) -> Iterator[Finding]:
        counts = Counter(state.databases for state in self.states.values())
        most = max(counts, default=1)
        for node, state in self.states.items():
            if state.databases < most:
                yield Finding(
                    "databases_differ", "warning", self._name(node), f"{databases.SETTING} is {state.databases}, others have {most}",
                    "all servers have the same databases", f"Set {databases.SETTING} in valkey_settings, then run site.yml",
                )  # fmt: skip


class _Shards(_Seen):
    """Slots, their replicas, and where these are."""

    def findings(self) -> Iterator[Finding]:
        """Return what does not hold; nothing where no server answered."""
        if not self.states:
            return
        yield from self._slots()
        yield from self._open_slots()
        yield from self._replicas()
        yield from self._links()
        yield from self._places()
        yield from self._majorities()
        yield from self._libraries()

    def _slots(self) -> Iterator[Finding]:
        claims = Counter(s for state in self.primaries.values() for s in ranges.expand(state.view.myself.slots))
        missing = ranges.to_ranges(set(range(ranges.SLOT_COUNT)).difference(claims))
        double = ranges.to_ranges(slot for slot, number in claims.items() if number > 1)
        if missing:
            yield Finding(
                "slots_uncovered",
                "critical",
                ranges.text(missing),
                f"{ranges.count(missing)} slots without a reachable owner",
                "16384 slots covered once",
                f"Bring their primary or its replica back; if they never had an owner: {CONVERGE.lower()}",
            )
        if double:
            yield Finding(
                "slots_two_owners", "critical", ranges.text(double), f"{ranges.count(double)} slots with two owners",
                "16384 slots covered once", "Wait a node timeout; if it stays, check the bus ports between the hosts",
            )  # fmt: skip
        if len(self.primaries) < 3:
            yield Finding(
                "primaries_too_few", "critical", "cluster", f"{len(self.primaries)} primaries with slots answer",
                "at least 3, so that a majority can elect", "Bring the missing primaries back or add nodes",
            )  # fmt: skip

    def _open_slots(self) -> Iterator[Finding]:
        for node, state in self.states.items():
            marked = ranges.to_ranges(mark.slot for mark in state.view.myself.marks)
            if marked:
                kinds = sorted({mark.direction for mark in state.view.myself.marks})
                yield Finding(
                    "slots_open", "warning", self._name(node), f"{' and '.join(kinds)} {ranges.text(marked)}",
                    "no slot is left open", f"If nothing is moving slots now: {CONVERGE.lower()}",
                )  # fmt: skip

    def _replicas(self) -> Iterator[Finding]:
        counts = Counter(state.view.myself.primary_id for state in self.followers.values())
        for node in self.primaries:
            number = counts[node]
            if number < self.limits.replicas:
                yield Finding(
                    "replicas_missing",
                    "critical" if number == 0 else "warning",
                    self._name(node),
                    f"{number} replicas",
                    f"at least {self.limits.replicas}",
                    f"Bring the missing nodes back; if all are there: {CONVERGE.lower()}",
                )

    def _links(self) -> Iterator[Finding]:
        for node, state in self.followers.items():
            server, primary = state.server, self.states.get(state.view.myself.primary_id or "")
            if not server.link_up:
                what = "is loading a full copy" if server.syncing else f"link is down for {server.link_silence} s"
                yield Finding(
                    "replica_link_down", "warning" if server.syncing else "critical", self._name(node), what,
                    "every replica's link is up", "See the replica's log: network, replication password, certificate",
                )  # fmt: skip
                continue
            if server.link_silence > self.limits.silence:
                yield Finding(
                    "replica_silent", "warning", self._name(node), f"{server.link_silence} s without data",
                    f"at most {self.limits.silence} s", "Check the network between replica and primary",
                )  # fmt: skip
            yield from self._lag(node, 0 if primary is None else primary.server.offset - server.offset)

    def _lag(self, node: str, lag: int) -> Iterator[Finding]:
        if lag <= self.limits.lag_warning:
            return
        critical = lag > self.limits.lag_critical
        yield Finding(
            "replica_lag",
            "critical" if critical else "warning",
            self._name(node),
            f"{lag} bytes behind its primary",
            f"at most {self.limits.lag_critical if critical else self.limits.lag_warning} bytes",
            "Look at the replica's load and network; a write burst passes by itself",
        )

    def _places(self) -> Iterator[Finding]:
        zones = {node.zone for node in self.declared if node.zone}
        for node, state in self.followers.items():
            mine, theirs = self.node_of[node], self.node_of.get(state.view.myself.primary_id or "")
            if theirs is None:
                continue
            if mine.host == theirs.host:
                yield Finding(
                    "replica_on_primary_host", "critical", mine.name, f"replicates {theirs.name} on the same host",
                    "replica and primary on different hosts", CONVERGE,
                )  # fmt: skip
            elif mine.zone and mine.zone == theirs.zone and len(zones) > 1:
                yield Finding(
                    "replica_in_primary_zone", "warning", mine.name, f"replicates {theirs.name} in zone {mine.zone}",
                    "replica and primary in different zones", CONVERGE,
                )  # fmt: skip

    def _majorities(self) -> Iterator[Finding]:
        number = len(self.primaries)
        leaders = [self.node_of[node] for node in self.primaries]
        for kind, severity, places, all_places in (
            ("host", "critical", [n.host for n in leaders], [n.host for n in self.declared]),
            ("zone", "warning", [n.zone for n in leaders], [n.zone for n in self.declared if n.zone]),
        ):
            room = sum(min(survivable(number), nodes) for nodes in Counter(all_places).values())
            for where, count in crowded(places, number).items():
                avoidable = room >= number
                if kind == "zone" and not avoidable:
                    continue
                yield Finding(
                    f"{kind}_holds_majority",
                    severity if avoidable else "warning",
                    f"{kind} {where}",
                    f"{count} of {number} primaries; without it no majority is left",
                    f"at most {survivable(number)}",
                    CONVERGE if avoidable else "Add a host, or use an odd number of primaries",
                )

    def _libraries(self) -> Iterator[Finding]:
        """A function that a primary lacks fails for the keys of its slots, and for those alone."""
        libraries = {node: state.libraries for node, state in self.primaries.items()}
        for name in sorted({name for found in libraries.values() for name in found}):
            lacking = [self._name(node) for node, found in libraries.items() if name not in found]
            digests = {node: functions.digest(found[name]) for node, found in libraries.items() if name in found}
            if lacking:
                yield Finding(
                    "functions_missing", "critical", ", ".join(lacking), f"no library {name}",
                    "all primaries have the same libraries of functions", LOAD,
                )  # fmt: skip
            if len(set(digests.values())) > 1:
                common = Counter(digests.values()).most_common(1)[0][0]
                others = [self._name(node) for node, found in digests.items() if found != common]
                yield Finding(
                    "functions_differ", "warning", ", ".join(others), f"another code of library {name} than other primaries",
                    "all primaries have the same libraries of functions", LOAD,
                )  # fmt: skip
