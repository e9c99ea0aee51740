# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Carries out plans until nothing is left to do: what valkey_cluster and valkey_slots share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import cluster, functions, shape, slots
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.agreeing import POLL, Disagreement, unsettled
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.cluster import (
    Cluster,
    members,
    settled,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Endpoint,
    Fleet,
    ValkeyError,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.functions import Load
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.migration import (
    Context,
    Limits,
    Outcome,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.moving import atomic, engines, room
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.shape import Plan, States
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.slots import Move

ROUNDS = 8
# In which servers that disagree about an owner hear of each other.
SETTLE_SECONDS = 10.0
# A connection that waits for a MIGRATE of a big key.
MIGRATE_SECONDS = 70.0

# The options of the doc fragment holdfast.persistence.valkey.moves.
MOVE_OPTIONS: dict[str, Any] = {
    "time_budget": {"type": "float", "default": 0.0},
    "migration": {"type": "str", "choices": list(engines.WAYS), "default": engines.AUTO},
    "keys_per_second": {"type": "int", "no_log": False},
    "max_p99": {"type": "float"},
    "check_room": {"type": "bool", "default": True},
    "wait_timeout": {"type": "float", "default": 120.0},
}

FAILURES = (Refusal, ValkeyError)


class Planning(Protocol):
    """Who plans: shape.Planner, assignment.Assigner. names: what people call nodes, by id."""

    names: dict[str, str]

    def plan(self) -> Plan:
        """Return the plan."""

    def staying(self, plan: Plan) -> list[Endpoint]:
        """Return the servers that are members after a plan."""


@dataclass
class Report:
    """What a run has done so far."""

    plan: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    remaining: int = 0
    slots_moved: int = 0
    keys_moved: int = 0
    bytes_moved: int = 0
    migration: str = ""
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    formed: bool = False

    @property
    def keys_per_second(self) -> float:
        """Keys moved in a second of moving."""
        return round(self.keys_moved / self.seconds, 1) if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimate for the remaining slots at the pace so far."""
        return round(self.seconds / self.slots_moved * self.remaining, 1) if self.slots_moved else None

    def result(self) -> dict[str, Any]:
        """Return what both modules return of it."""
        return {
            "plan": self.plan,
            "done": self.done,
            "remaining": self.remaining,
            "slots_moved": self.slots_moved,
            "keys_moved": self.keys_moved,
            "bytes_moved": self.bytes_moved,
            "migration": self.migration,
            "notes": self.notes,
            "keys_per_second": self.keys_per_second,
            "seconds_left": self.seconds_left,
        }

    def add(self, outcome: Outcome) -> None:
        """Count what an engine did."""
        self.slots_moved += sum(move.count for move in outcome.done)
        self.keys_moved += outcome.progress.keys
        self.bytes_moved += outcome.progress.bytes
        self.migration = outcome.way or self.migration
        self.notes += outcome.notes
        self.seconds += outcome.progress.seconds
        self.remaining = sum(move.count for move in outcome.remaining)


def check_limits(params: Mapping[str, Any]) -> str:
    """Return what is wrong with the limits, empty when nothing is."""
    for name in ("keys_per_second", "max_p99"):
        value = params[name]
        if value is not None and value <= 0:
            return f"{name} is {value}; it has to be more than 0. Leave it out for no limit"
    return "" if params["time_budget"] >= 0 else f"time_budget is {params['time_budget']}; use 0 for no limit"


class Converger:
    """One run: reads, plans, acts and reads again until nothing is left to do.

    params: those of MOVE_OPTIONS. movers: connections that may wait long. planner: makes the planner for states.
    """

    def __init__(
        self, params: Mapping[str, Any], group: Cluster, movers: Fleet, planner: Callable[[States], Planning]
    ) -> None:
        self.params = params
        self.cluster = group
        self.movers = movers
        self.planner = planner
        self.report = Report()

    def look(self) -> tuple[States, Planning, Plan]:
        """Read the servers and plan. Raises one of FAILURES."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            states = self.cluster.observe()
            planner = self.planner(states)
            try:
                plan = planner.plan()
            except shape.TwoOwnersError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL)
                continue
            self._check(states, planner, plan)
            plan = replace(plan, load=self._lacking(states, plan))
            if not self.report.before:
                self._begin(states, planner, plan)
            return states, planner, plan

    def _lacking(self, states: States, plan: Plan) -> tuple[Load, ...]:
        """Return the libraries that nodes lack which are to get slots: whoever calls their functions would be refused there."""
        targets = {move.target for move in (*plan.heal, *plan.move)}
        if not targets:
            return ()
        endpoint_of = {state.id: endpoint for endpoint, state in states.items()}
        owners = {s.id for s in states.values() if s.view.myself.is_primary and s.view.myself.slots}
        found = functions.read(self.cluster.fleet, [endpoint_of[node] for node in sorted(owners | targets)])
        return functions.plan({node: found[endpoint_of[node]] for node in owners | targets}, owners, targets)

    def _check(self, states: States, planner: Planning, plan: Plan) -> None:
        """Refuse what could not be carried out, before anything is touched. Raises Refusal."""
        shape.check_versions(plan, states, planner.names)
        by_id = {state.id: state for state in states.values()}
        engines.check(plan.move, by_id, planner.names, self.params["migration"])
        engines.check_databases([*plan.heal, *plan.move], by_id, planner.names)
        servers = {node: state.server for node, state in by_id.items()}
        moves = room.limited(plan.move, servers)
        if not moves or not self.params["check_room"]:
            return
        endpoint_of = {state.id: endpoint for endpoint, state in states.items()}
        loads = [
            room.Load(move, cluster.count_keys(self.cluster.fleet, endpoint_of[move.source], [move])) for move in moves
        ]
        room.check(loads, servers, planner.names)

    def _begin(self, states: States, planner: Planning, plan: Plan) -> None:
        """Keep what the first look found."""
        self.report.before = shape.rows(states, planner.names)
        self.report.plan = plan.lines(planner.names)
        self.report.formed = plan.forming
        self.report.remaining = sum(move.count for move in (*plan.heal, *plan.move))

    def converge(self) -> tuple[States, Planning]:
        """Act until the plan is empty or the time is used up. Returns the last states. Raises one of FAILURES."""
        self._await_jobs()
        for _round in range(ROUNDS):
            states, planner, plan = self.look()
            if plan.empty:
                self.report.remaining = 0
                staying = planner.staying(plan)
                if settled(states, staying):
                    # A server that has just started agrees with all others before it serves.
                    self.cluster.agreement.await_open(staying)
                else:
                    self.cluster.agreement.agree(staying)
                return states, planner
            if not self._act(states, planner, plan):
                return self.cluster.observe(), planner
        left = f"still to do: {', '.join(plan.lines(planner.names)[:5])}"
        raise unsettled(0.0, [Disagreement(self.cluster.endpoints[0], left)])

    def _await_jobs(self) -> None:
        """Let migrations end that an interrupted run or another tool began: they change what has to be planned."""
        versions = self.cluster.versions()
        able = [endpoint for endpoint, version in versions.items() if version >= atomic.FIRST_VERSION]
        atomic.await_jobs(self.cluster.fleet, able, self.params["wait_timeout"])

    def _act(self, states: States, planner: Planning, plan: Plan) -> bool:
        """Carry out a plan. Returns False when the time was used up before all slots were moved."""
        endpoint_of = {state.id: endpoint for endpoint, state in states.items()}
        staying = planner.staying(plan)
        functions.load(self.cluster.fleet, plan.load, endpoint_of)
        self._note(Plan(load=plan.load), planner)
        self.cluster.forming.calm(endpoint_of[node] for node in plan.calm)
        self._note(Plan(calm=plan.calm), planner)
        if plan.reset:
            self.cluster.forming.reset(states, plan.reset)
            self._note(Plan(reset=plan.reset), planner)
            return True
        if plan.heal or plan.settle:
            self.cluster.forming.settle(states, plan.settle)
            self._note(Plan(settle=plan.settle), planner)
            if plan.heal:
                agreement, touched = self.cluster.agreement, _endpoints(plan.heal, endpoint_of)
                agreement.await_owners(touched, (slot for m in plan.heal for slot in range(m.first, m.last + 1)))
                agreement.await_open(touched)
            return self._move(states, planner, plan, plan.heal, "finish ")
        if plan.promote:
            self.cluster.forming.promote(states, plan.promote, staying)
            self._note(Plan(promote=plan.promote), planner)
            return True
        if plan.meet or plan.assign or plan.replicate:
            self.cluster.forming.introduce(states, plan, staying)
            self._note(Plan(meet=plan.meet, assign=plan.assign, replicate=plan.replicate), planner)
            return True
        if plan.move:
            self.cluster.agreement.await_serving(_endpoints(plan.move, endpoint_of))
            return self._move(states, planner, plan, plan.move)
        self.cluster.forming.forget(states, plan.forget)
        self._note(Plan(forget=plan.forget), planner)
        return True

    def _note(self, part: Plan, planner: Planning) -> None:
        self.report.done += part.lines(planner.names)

    def _move(self, states: States, planner: Planning, plan: Plan, moves: Sequence[Move], verb: str = "") -> bool:
        if not moves:
            return True
        limits = Limits(keys_per_second=self.params["keys_per_second"], max_p99=self.params["max_p99"])
        context = Context(self.movers, members(states), limits)
        budget = self.params["time_budget"] or None
        left = None if budget is None else max(0.0, budget - self.report.seconds)
        # Slots that are open already can only be finished the way they were begun.
        way = engines.KEYS if verb else self.params["migration"]
        outcome = engines.carry_out(context, moves, left, way)
        self.report.add(outcome)
        self.report.done += [verb + line for line in slots.describe(shape.joined(outcome.done), planner.names)]
        self.cluster.agreement.agree(planner.staying(plan))
        return not outcome.remaining


def _endpoints(moves: Sequence[Move], endpoint_of: Mapping[str, Endpoint]) -> list[Endpoint]:
    """Return the servers that give or take slots."""
    return [endpoint_of[node] for node in sorted({node for move in moves for node in (move.source, move.target)})]
