# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""From the declared shape of a cluster and what its servers say to a plan. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import healing, placement, ranges, slots
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Endpoint
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.functions import Load
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.placement import Placement, Seat
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.ranges import Ranges, SlotRange
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.slots import Move, Wish
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import Server, View


class TwoOwnersError(Refusal):
    """Two primaries claim a slot; servers that reach each other end that by themselves."""


@dataclass(frozen=True)
class Declared:
    """A node as the inventory has it.

    endpoint: where we and the other servers reach it. host: the machine. weight: its share of slots if it is a primary.
    role: `primary`, `replica` or empty. pinned: slots that it has to own. present: False for a node that is to leave.
    """

    endpoint: Endpoint
    host: str
    zone: str = ""
    weight: Fraction = Fraction(1)
    role: str = ""
    pinned: Ranges = ()
    present: bool = True

    @property
    def name(self) -> str:
        """What people call it: host:port."""
        return f"{self.host}:{self.endpoint.port}"


@dataclass(frozen=True)
class State:
    """What one server says. pace: its markers of an unfinished formation, see `pace`; None without any.

    held: its number of keys by slot, of all its databases, where that is in doubt (healing.doubtful).
    databases: how many it has. libraries: code of its libraries of functions by name, where it was asked for them.
    """

    view: View
    server: Server
    pace: int | None = None
    held: Mapping[int, int] = field(default_factory=dict)
    databases: int = 1
    libraries: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Its node id."""
        return self.view.myself.id


States = Mapping[Endpoint, State]


@dataclass(frozen=True)
class Plan:
    """What has to happen, in this order. Nodes are named by id.

    calm: servers that an interrupted formation left at its pace. meet: nodes that don't know all others yet.
    settle: slots whose marks are cleared, by id of the primary. heal: open slots that are moved on to where they were
    going. reset: replicas that begin anew as empty primaries. promote: replica that takes over, by primary.
    assign: slots that get their first owner, or one again. replicate: primary by replica. load: libraries of functions that
    nodes lack which are to get slots. move: slots that change their owner. forget: nodes that leave the cluster.
    """

    calm: tuple[str, ...] = ()
    meet: tuple[str, ...] = ()
    settle: Mapping[str, Ranges] = field(default_factory=dict)
    heal: tuple[Move, ...] = ()
    reset: tuple[str, ...] = ()
    promote: Mapping[str, str] = field(default_factory=dict)
    assign: tuple[Move, ...] = ()
    replicate: Mapping[str, str] = field(default_factory=dict)
    load: tuple[Load, ...] = ()
    move: tuple[Move, ...] = ()
    forget: tuple[str, ...] = ()
    forming: bool = False

    @property
    def empty(self) -> bool:
        """True when nothing has to happen."""
        return not any(
            (
                self.calm,
                self.meet,
                self.settle,
                self.heal,
                self.reset,
                self.promote,
                self.assign,
                self.replicate,
                self.move,
                self.forget,
            )
        )

    def lines(self, names: Mapping[str, str]) -> list[str]:
        """Return the plan as people read it, a line for each step."""

        def name(node: str) -> str:
            return names.get(node, node)

        return [
            *(f"restore the ping interval of {name(node)}" for node in self.calm),
            *(f"meet {name(node)}" for node in self.meet),
            *(f"clear marks of {ranges.text(marked)} on {name(node)}" for node, marked in self.settle.items()),
            *(f"finish {line}" for line in slots.describe(self.heal, names)),
            *(f"reset replica {name(node)} to lead a shard of its own" for node in self.reset),
            *(f"fail over {name(old)} -> {name(new)}" for old, new in self.promote.items()),
            *(f"{move.slots} -> {name(move.target)}" for move in self.assign),
            *(f"load library {item.name} on {name(item.node)}" for item in self.load),
            *slots.describe(self.move, names),
            *(f"{name(replica)} replicates {name(primary)}" for replica, primary in self.replicate.items()),
            *(f"forget {name(node)}" for node in self.forget),
        ]


def check_declaration(declared: Sequence[Declared]) -> None:
    """Raise Refusal when a node is listed twice, has a negative weight, or shares a pinned slot with another."""
    for endpoint, number in Counter(node.endpoint for node in declared).items():
        if number > 1:
            raise Refusal(f"node {endpoint} is listed {number} times", "List every node once")
    pinned: dict[int, str] = {}
    for node in declared:
        if node.weight < 0:
            raise Refusal(f"weight {float(node.weight):g} of {node.name} is negative", "Use 0 to drain a node")
        double = [slot for slot in ranges.expand(node.pinned) if pinned.setdefault(slot, node.name) != node.name]
        if double:
            raise Refusal(
                f"slots {ranges.text(ranges.to_ranges(double))} are pinned to {pinned[double[0]]} and to {node.name}",
                "Pin each slot to one node",
            )


def names_of(declared: Sequence[Declared], states: States) -> dict[str, str]:
    """Return what people call each node, by id; nodes that aren't declared by address."""
    found = {node.id: node.endpoint for state in states.values() for node in state.view.members if node.has_address}
    return {**found, **{states[node.endpoint].id: node.name for node in declared if node.endpoint in states}}


class _Nodes:
    """Declared nodes as the servers know them: who is where, and what prevents a plan."""

    def __init__(self, declared: Sequence[Declared], states: States) -> None:
        self.declared = declared
        self.states = states
        self.node_of = {states[node.endpoint].id: node for node in declared if node.endpoint in states}
        self.by_id = {state.id: state for state in states.values()}
        self.names = names_of(declared, states)
        self.present = [state_id for state_id, node in self.node_of.items() if node.present]

    def _name(self, node: str) -> str:
        return self.names.get(node, node)

    def check_ids(self) -> None:
        """Refuse a node that is declared twice."""
        seen: dict[str, Declared] = {}
        for node in self.declared:
            state = self.states.get(node.endpoint)
            if state is None:
                continue
            other = seen.setdefault(state.id, node)
            if other is not node:
                raise Refusal(
                    f"{node.endpoint} and {other.endpoint} are the same node, {state.id}", "List every node once"
                )

    def check_foreign(self, *, forget_failed: bool) -> tuple[str, ...]:
        """Refuse members that aren't declared. Returns the dead ones that may be forgotten."""
        dead: dict[str, None] = {}
        for state in self.in_cluster():
            for node in state.view.members:
                if node.id in self.node_of:
                    continue
                if (node.failed or not node.has_address) and not node.slots and forget_failed:
                    dead[node.id] = None
                    continue
                raise Refusal(
                    f"{self._name(state.id)} belongs to a cluster with the undeclared node {node.endpoint} ({node.id}"
                    f"{', down' if node.failed else ''}{', owns slots' if node.slots else ''})",
                    "Declare it, or declare it absent; for a dead node without slots, set forget_failed",
                )
        return tuple(dead)

    def in_cluster(self) -> list[State]:
        """States of the nodes that stay, and of leaving ones that have not left yet."""
        return [s for s in self.states.values() if s.id in self.present or not s.view.alone]

    def check_clusters(self) -> None:
        """Refuse nodes of several clusters; groups without any key are parts of one interrupted formation."""
        groups = self.groups()
        formed = [group for group in groups if any(self.by_id[node].view.myself.slots for node in group)]
        with_keys = [group for group in formed if any(self.by_id[node].server.keys for node in group)]
        claimed = Counter(
            slot for group in formed for node in group for slot in ranges.expand(self.by_id[node].view.myself.slots)
        )
        clash = len(formed) > 1 and (len(with_keys) > 0 or max(claimed.values()) > 1)
        if clash:
            smallest, *others = sorted(formed, key=len)
            raise Refusal(
                f"{', '.join(sorted(self._name(node) for node in smallest))} and"
                f" {', '.join(sorted(self._name(node) for node in others[-1]))} belong to different clusters",
                "Declare the nodes of one cluster only; reset a node (CLUSTER RESET HARD) to let it join another",
            )
        for node in self.present:
            state = self.by_id[node]
            if state.view.alone and state.server.keys and not state.view.myself.slots:
                raise Refusal(
                    f"{self._name(node)} is not empty: {state.server.keys} keys",
                    "Empty it (FLUSHALL) or take it out of the declaration",
                )

    def groups(self) -> list[set[str]]:
        """Sets of declared nodes that know each other, directly or not."""
        groups: list[set[str]] = []
        for state in self.in_cluster():
            group = {node.id for node in state.view.members if node.id in self.node_of} | {state.id}
            apart = [other for other in groups if not other & group]
            groups = [*apart, group.union(*(other for other in groups if other & group))]
        return groups


class Planner:
    """Plans for one declaration and one set of states.

    replicas: least number for each primary. balance: whether slots move for balance alone.
    forget_failed: whether dead nodes that aren't declared and own no slot are forgotten.
    """

    def __init__(
        self,
        declared: Sequence[Declared],
        states: States,
        *,
        replicas: int,
        balance: bool = True,
        forget_failed: bool = False,
    ) -> None:
        self._nodes = _Nodes(declared, states)
        self.names = self._nodes.names
        self._replicas = replicas
        self._balance = balance
        self._forget_failed = forget_failed

    def plan(self) -> Plan:
        """Return the plan. Raises Refusal when there can't be one."""
        self._nodes.check_ids()
        dead = self._nodes.check_foreign(forget_failed=self._forget_failed)
        self._nodes.check_clusters()
        owned = owners(self._nodes.in_cluster())
        wished = placement.place(self._seats(owned), self._replicas)
        healed = heal(self._nodes.by_id, owned, self._nodes.names)
        if not healed.empty:
            healing_moves = joined(healed.moves)
            return Plan(
                calm=self._calm(), meet=self._meet(), settle=healed.settle, heal=healing_moves, assign=healed.assign
            )
        reset = self._reset(wished)
        if reset:
            return Plan(calm=self._calm(), reset=reset)
        distribution = self._distribution(owned, wished)
        busy = {move.source for move in distribution.moves}
        return Plan(
            calm=self._calm(),
            meet=self._meet(),
            promote=wished.promotions,
            assign=distribution.assignments,
            replicate=self._replicate(wished, busy),
            move=distribution.moves,
            forget=(*dead, *self._leaving(busy)),
            forming=not owned,
        )

    def staying(self, plan: Plan) -> list[Endpoint]:
        """Return the servers that are members after a plan: not those that leave with it or have left already."""
        found = []
        for node in self._nodes.declared:
            state = self._nodes.states[node.endpoint]
            if node.present or not (state.view.alone or state.id in plan.forget):
                found.append(node.endpoint)
        return found

    def _seats(self, owned: Mapping[str, Ranges]) -> list[Seat]:
        shard_of = {node: self._nodes.by_id[node].view.myself.primary_id or node for node in self._nodes.present}
        bound = {
            leader for node, leader in shard_of.items() if leader in self._nodes.by_id and self._newer(node, leader)
        }
        seats = []
        for node in self._nodes.present:
            declared, leader = self._nodes.node_of[node], shard_of[node]
            hint = declared.role
            if leader in bound:
                # A primary that is older than its replica keeps leading: it could not follow it.
                hint = placement.PRIMARY if node == leader else ""
            seats.append(Seat(node, declared.host, declared.zone, hint, leader if leader in owned else ""))
        return seats

    def _newer(self, node: str, other: str) -> bool:
        return self._nodes.by_id[node].server.version[:1] > self._nodes.by_id[other].server.version[:1]

    def _distribution(self, owned: Mapping[str, Ranges], wished: Placement) -> slots.SlotPlan:
        """Plan slots as they lie after the promotions."""
        after: dict[str, Ranges] = {wished.promotions.get(node, node): claimed for node, claimed in owned.items()}
        weights = {node: self._nodes.node_of[node].weight for node in wished.primaries}
        pins = {node: self._nodes.node_of[node].pinned for node in wished.primaries if self._nodes.node_of[node].pinned}
        for node, declared in self._nodes.node_of.items():
            if declared.pinned and node not in wished.primaries and declared.present:
                raise Refusal(
                    f"slots {ranges.text(declared.pinned)} are pinned to {declared.name}, which is a replica",
                    "Declare its role as primary, or pin them to a primary",
                )
        make = slots.plan if self._balance or not owned else slots.keep
        return make(after, Wish(weights, pins))

    def _reset(self, wished: Placement) -> tuple[str, ...]:
        """Replicas that are to lead a shard of their own: a primary that was drained followed another by itself."""
        leads = {*wished.primaries} - {*wished.promotions.values()}
        return tuple(
            node for node in self._nodes.present if node in leads and self._nodes.by_id[node].view.myself.is_replica
        )

    def _replicate(self, wished: Placement, busy: Iterable[str]) -> dict[str, str]:
        """Replicas that don't follow their primary yet; primaries that have slots to give must give them first."""
        waiting = {*busy, *wished.promotions}
        return {
            replica: primary
            for replica, primary in wished.follows.items()
            if self._nodes.by_id[replica].view.myself.primary_id != primary
            and replica not in waiting
            # After a promotion the old primary and the other replicas of its shard follow by themselves.
            and wished.promotions.get(self._nodes.by_id[replica].view.myself.primary_id or "") != primary
        }

    def _meet(self) -> tuple[str, ...]:
        """Nodes to introduce: all that some node does not know, except one group that the others join."""
        everyone = set(self._nodes.present)
        if all(everyone <= {m.id for m in self._nodes.by_id[node].view.members} for node in self._nodes.present):
            return ()
        groups = [group & everyone for group in self._nodes.groups() if group & everyone]
        core = max(groups, key=lambda group: (any(self._nodes.by_id[n].view.myself.slots for n in group), len(group)))
        known = {m.id for node in core for m in self._nodes.by_id[node].view.members}
        strangers = [node for node in self._nodes.present if node not in core or node not in known]
        return tuple(strangers or self._nodes.present)

    def _calm(self) -> tuple[str, ...]:
        return tuple(node for node, state in self._nodes.by_id.items() if state.pace is not None)

    def _leaving(self, busy: Iterable[str]) -> list[str]:
        return [
            node
            for node, declared in self._nodes.node_of.items()
            if not declared.present and not self._nodes.by_id[node].view.alone and node not in set(busy)
        ]


def check_versions(plan: Plan, states: States, names: Mapping[str, str]) -> None:
    """Refuse what brings data of a server to one of an older major version, which can't read it. Raises Refusal."""
    version = {state.id: state.server for state in states.values()}
    ways = [
        *((move.source, move.target, "slots would move") for move in (*plan.heal, *plan.move)),
        *((primary, replica, "it would be replicated") for replica, primary in plan.replicate.items()),
    ]
    for source, target, what in ways:
        if version[source].version[:1] > version[target].version[:1]:
            older, newer = names.get(target, target), names.get(source, source)
            raise Refusal(
                f"{what} from {newer} ({version[source].version_text}) to {older} ({version[target].version_text}), which can't"
                " read data of a newer major version",
                f"Upgrade {older} first (update.yml)",
            )


def owners(states: Iterable[State]) -> dict[str, Ranges]:
    """Return slots by owner, each as its owner claims it. Raises TwoOwnersError."""
    owned = {state.id: state.view.myself.slots for state in states if state.view.myself.slots}
    claims = Counter(slot for claimed in owned.values() for slot in ranges.expand(claimed))
    double = ranges.to_ranges(slot for slot, number in claims.items() if number > 1)
    if double:
        raise TwoOwnersError(
            f"slots {ranges.text(double)} have two owners",
            "The servers settle that by their epochs within seconds; if they don't, see that all reach each other's"
            " bus ports, then run again",
        )
    return owned


def heal(by_id: Mapping[str, State], owned: Mapping[str, Ranges], names: Mapping[str, str]) -> healing.Healing:
    """Read migrating and importing marks, and who has keys of slots without an owner. Raises Refusal."""
    owner_of = {slot: node for node, claimed in owned.items() for slot in ranges.expand(claimed)}
    members = {node: healing.Member(state.view.myself, state.held) for node, state in by_id.items()}
    return healing.Healer(members, owner_of, names).heal()


def joined(moves: Sequence[Move]) -> tuple[Move, ...]:
    """Return moves with neighbours between the same nodes made one."""
    found: list[Move] = []
    for move in moves:
        last = found[-1] if found else None
        if last and last.last + 1 == move.first and (last.source, last.target) == (move.source, move.target):
            found[-1] = Move(last.first, move.last, move.source, move.target)
        else:
            found.append(move)
    return tuple(found)


def rows(states: States, names: Mapping[str, str]) -> list[str]:
    """Return the topology as people read it, a line for each node, for diffs."""
    found = []
    for state in states.values():
        me = state.view.myself
        name = names.get(me.id, me.id)
        if state.view.alone and not me.slots:
            found.append(f"{name} alone")
        elif me.is_replica:
            found.append(f"{name} replica of {names.get(me.primary_id or '', me.primary_id)}")
        else:
            found.append(f"{name} primary {ranges.text(me.slots) or 'without slots'}")
    return sorted(found)


def rows_after(states: States, plan: Plan, names: Mapping[str, str], leaving: Iterable[str] = ()) -> list[str]:
    """Return the topology that a plan leads to, as rows shows it. leaving: ids of nodes that are to be alone then."""
    primary_of = {state.id: state.view.myself.primary_id for state in states.values()}
    owned = {state.id: set(ranges.expand(state.view.myself.slots)) for state in states.values()}
    for old, new in plan.promote.items():
        owned[new], owned[old] = owned[old], set()
        for replica, primary in primary_of.items():
            primary_of[replica] = new if primary == old else primary
        primary_of[new], primary_of[old] = None, new
    for move in (*plan.heal, *plan.assign, *plan.move):
        moved = set(ranges.expand([SlotRange(move.first, move.last)]))
        for claimed in owned.values():
            claimed.difference_update(moved)
        owned[move.target] |= moved
    primary_of.update(plan.replicate)
    absent = set(leaving)
    found = []
    for node, primary in primary_of.items():
        name = names.get(node, node)
        if node in absent:
            found.append(f"{name} alone")
        elif primary:
            found.append(f"{name} replica of {names.get(primary, primary)}")
        else:
            found.append(f"{name} primary {ranges.text(ranges.to_ranges(owned[node])) or 'without slots'}")
    return sorted(found)
