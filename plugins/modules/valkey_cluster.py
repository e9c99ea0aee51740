#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
"""Module that brings Valkey servers to a declared cluster shape."""

from __future__ import annotations

DOCUMENTATION = r"""
module: valkey_cluster
short_description: Form a Valkey cluster and keep it in its declared shape
version_added: 0.1.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Forms a cluster of empty servers, adds nodes, attaches replicas by host and zone, moves slots by weight, and takes
    nodes out. What stands and fits is left as it is, so a cluster that other tools made is adopted unchanged.
  - Nodes are known by their node ids; their addresses may change.
  - A run that was interrupted at any point is finished by the next one.
  - No replica is placed on its primary's host, and in another zone where that is possible.
  - When one host, or where possible one zone, holds so many primaries that its loss would leave no majority, primaries
    are moved by planned failover.
  - The fewest slots are moved that the declared weights ask for.
options:
  nodes:
    description: All nodes of the cluster.
    type: list
    elements: dict
    required: true
    suboptions:
      address:
        description: Address or name at which this module and the other nodes reach the node.
        type: str
        required: true
      port:
        description: Client port, the TLS port with O(tls).
        type: int
        required: true
      host:
        description:
          - Machine that the node runs on; names the node in messages together with its port.
          - Default is O(nodes[].address).
        type: str
      zone:
        description: Failure domain of the host, such as a rack or a room.
        type: str
        default: ""
      weight:
        description: Share of slots of the node while it is a primary; V(0) keeps it without slots.
        type: float
        default: 1.0
      role:
        description: Role that the node should have. Without it the module chooses.
        type: str
        choices: [primary, replica]
      slots:
        description: Slots that this primary has to own, as V(0-99 1000); they count towards its share.
        type: str
        default: ""
      state:
        description: V(absent) gives the node's slots to the others, takes it out of the cluster and resets it.
        type: str
        choices: [present, absent]
        default: present
  replicas:
    description:
      - Least number of replicas for each primary. The number of primaries follows from it and the number of nodes.
    type: int
    default: 1
  balance:
    description:
      - Whether slots are moved for the sake of balance alone.
      - V(false) moves only what has no owner or must leave its owner.
    type: bool
    default: true
  forget_failed:
    description:
      - Whether dead members that own no slots and are not in O(nodes) are forgotten. Otherwise they are an error.
    type: bool
    default: false
  time_budget:
    description:
      - Seconds after which no further slots are moved. RV(remaining) tells how many are left, the next run goes on.
      - V(0) is unlimited.
    type: float
    default: 0.0
  migration:
    description:
      - How slots are moved. V(atomic) lets the servers move whole ranges (Valkey 9.0 and later), V(keys) moves key by key.
      - V(auto) is atomic where both servers can, and key by key for what servers fail to move; with
        O(keys_per_second) or O(max_p99), which only moving key by key can keep, it is key by key.
    type: str
    choices: [auto, keys, atomic]
    default: auto
  keys_per_second:
    description: Most keys moved in a second, of all nodes together. Without it there is no limit.
    type: int
  max_p99:
    description:
      - Milliseconds that the 99th percentile of a probe of the servers that give and take may last; the movers slow down
        to keep it.
      - Without it slots move as fast as the servers let them.
    type: float
  wait_timeout:
    description: Seconds in which all nodes have to agree after a change.
    type: float
    default: 120.0
extends_documentation_fragment:
  - holdfast.persistence.valkey
attributes:
  check_mode:
    description: Returns the plan and changes nothing.
    support: full
  diff_mode:
    description: Shows role and slots of each node before and after.
    support: full
seealso:
  - module: holdfast.persistence.valkey_cluster_info
  - module: holdfast.persistence.valkey_replication_check
"""

EXAMPLES = r"""
- name: Form a cluster of three hosts, two instances each
  holdfast.persistence.valkey_cluster:
    nodes:
      - {address: 198.18.0.11, port: 7001, host: node1, zone: a}
      - {address: 198.18.0.11, port: 7002, host: node1, zone: a}
      - {address: 198.18.0.12, port: 7001, host: node2, zone: b}
      - {address: 198.18.0.12, port: 7002, host: node2, zone: b}
      - {address: 198.18.0.13, port: 7001, host: node3, zone: c}
      - {address: 198.18.0.13, port: 7002, host: node3, zone: c}
    replicas: 1
    username: admin
    password: "{{ cluster_valkey_admin_password }}"
    tls: true
    ca_cert: /etc/holdfast/tls/ca.crt
    client_cert: /etc/holdfast/tls/valkey.pem
  run_once: true

- name: Move slots half a minute at a time, so that the run shows how far it is
  holdfast.persistence.valkey_cluster:
    nodes: "{{ valkey_nodes }}"
    time_budget: 30
  register: moved
  until: moved.remaining == 0
  retries: 100
  delay: 0
  run_once: true
"""

RETURN = r"""
plan:
  description: What the declared shape asked for when the run began, a line for each step.
  returned: always
  type: list
  elements: str
  sample: ["0-1365 node1:7001 -> node3:7002"]
done:
  description: Steps that were carried out. In check mode none.
  returned: always
  type: list
  elements: str
remaining:
  description: Number of slots that still have to change their owner. In check mode those of the plan.
  returned: always
  type: int
slots_moved:
  description: Number of slots that changed their owner.
  returned: always
  type: int
keys_moved:
  description: Number of keys that were moved with them.
  returned: always
  type: int
bytes_moved:
  description: Their size by MEMORY USAGE, of those that were moved key by key.
  returned: always
  type: int
migration:
  description: How slots were moved, C(atomic), C(keys), C(atomic+keys), or empty when none were.
  returned: always
  type: str
notes:
  description: What happened on the way that an operator may want to know, such as jobs that the servers gave up.
  returned: always
  type: list
  elements: str
keys_per_second:
  description: Rate at which keys were moved.
  returned: always
  type: float
seconds_left:
  description: Estimated seconds for the remaining slots, null when nothing was moved.
  returned: always
  type: float
formed:
  description: Whether this run made the cluster out of nodes without any slot.
  returned: always
  type: bool
nodes:
  description: Every declared node after the run.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Host and port.
      type: str
    id:
      description: Node id.
      type: str
    role:
      description: C(primary) or C(replica).
      type: str
    primary:
      description: Name of its primary, empty for a primary.
      type: str
    slots:
      description: Ranges of slots that it owns.
      type: str
    host:
      description: Machine that it runs on.
      type: str
    zone:
      description: Failure domain of the machine.
      type: str
    version:
      description: Version of the server.
      type: str
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import (
    atomic,
    cluster,
    connection,
    engines,
    healing,
    ranges,
    shape,
    slots,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.cluster import (
    Cluster,
    ClusterError,
    Disagreement,
    members,
    settled,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Endpoint,
    Fleet,
    ValkeyError,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.migration import (
    Context,
    Limits,
    Outcome,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.nodes import NODE_OPTIONS, declared_node
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.placement import PlacementError
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.shape import Declared, Plan, Planner, States
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.slots import Move, SlotPlanError
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import TopologyError

ROUNDS = 8
# In which servers that disagree about an owner hear of each other.
SETTLE_SECONDS = 10.0
MIGRATE_SECONDS = 70.0

ARGUMENTS: dict[str, Any] = {
    "nodes": {"type": "list", "elements": "dict", "required": True, "options": NODE_OPTIONS},
    "replicas": {"type": "int", "default": 1},
    "balance": {"type": "bool", "default": True},
    "forget_failed": {"type": "bool", "default": False},
    "time_budget": {"type": "float", "default": 0.0},
    "migration": {"type": "str", "choices": list(engines.WAYS), "default": engines.AUTO},
    "keys_per_second": {"type": "int", "no_log": False},
    "max_p99": {"type": "float"},
    "wait_timeout": {"type": "float", "default": 120.0},
    **connection.argument_spec(),
}

FAILURES = (
    healing.HealingError,
    engines.WayError,
    ValkeyError,
    ClusterError,
    PlacementError,
    SlotPlanError,
    shape.ShapeError,
    TopologyError,
)


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
        """Return what the module returns of it."""
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
            "formed": self.formed,
        }


class Run:
    """One run of the module: reads, plans, acts and reads again until nothing is left to do."""

    def __init__(self, params: Mapping[str, Any], fleet: Fleet, movers: Fleet) -> None:
        self.params = params
        self.movers = movers
        self.declared = [declared_node(item) for item in params["nodes"]]
        shape.check_declaration(self.declared)
        endpoints = [node.endpoint for node in self.declared]
        self._connect(fleet)
        self.cluster = Cluster(fleet, endpoints, wait_timeout=params["wait_timeout"])
        self.report = Report()

    def _connect(self, fleet: Fleet) -> None:
        errors = fleet.connect(node.endpoint for node in self.declared)
        if errors:
            names = {node.endpoint: node.name for node in self.declared}
            first = min(errors, key=lambda endpoint: names[endpoint])
            more = f" ({len(errors) - 1} more nodes failed: {_listed(errors, names, first)})" if len(errors) > 1 else ""
            raise type(errors[first])(first, f"{names[first]}: {errors[first].problem}{more}", errors[first].remedy)

    def planner(self, states: States) -> Planner:
        """Return the planner for these states."""
        return Planner(
            self.declared,
            states,
            replicas=self.params["replicas"],
            balance=self.params["balance"],
            forget_failed=self.params["forget_failed"],
        )

    def look(self) -> tuple[States, Planner, Plan]:
        """Read the servers and plan."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            states = self.cluster.observe()
            planner = self.planner(states)
            try:
                return states, planner, planner.plan()
            except shape.TwoOwnersError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(cluster.POLL)

    def converge(self) -> tuple[States, Planner]:
        """Act until the plan is empty or the time is used up. Returns the last states."""
        self._await_jobs()
        for _round in range(ROUNDS):
            states, planner, plan = self.look()
            if not self.report.before:
                self.begin(states, planner, plan)
            if plan.empty:
                self.report.remaining = 0
                staying = self._staying(states, plan)
                if not settled(states, staying):
                    self.cluster.agree(staying)
                return states, planner
            if not self._act(states, planner, plan):
                return self.cluster.observe(), planner
        raise ClusterError(0.0, [shape_left(plan, planner, self.declared[0].endpoint)])

    def _await_jobs(self) -> None:
        """Let migrations end that an interrupted run or another tool began: they change what has to be planned."""
        versions = self.cluster.versions()
        able = [endpoint for endpoint, version in versions.items() if version >= atomic.FIRST_VERSION]
        atomic.await_jobs(self.cluster.fleet, able, self.params["wait_timeout"])

    def begin(self, states: States, planner: Planner, plan: Plan) -> None:
        """Keep what the first look found."""
        self.report.before = shape.rows(states, planner.names)
        self.report.plan = plan.lines(planner.names)
        self.report.formed = plan.forming
        self.report.remaining = sum(move.count for move in (*plan.heal, *plan.move))

    def _staying(self, states: States, plan: Plan) -> list[Endpoint]:
        """Servers that are members after the plan: not those that leave with it or have left already."""
        found = []
        for node in self.declared:
            state = states[node.endpoint]
            if node.present or not (state.view.alone or state.id in plan.forget):
                found.append(node.endpoint)
        return found

    def _act(self, states: States, planner: Planner, plan: Plan) -> bool:
        """Carry out a plan. Returns False when the time was used up before all slots were moved."""
        endpoint_of = {state.id: endpoint for endpoint, state in states.items()}
        staying = self._staying(states, plan)
        self.cluster.calm(endpoint_of[node] for node in plan.calm)
        self._note(Plan(calm=plan.calm), planner)
        if plan.reset:
            self.cluster.reset(states, plan.reset)
            self._note(Plan(reset=plan.reset), planner)
            return True
        if plan.heal or plan.settle:
            self.cluster.settle(states, plan.settle)
            self._note(Plan(settle=plan.settle), planner)
            return self._move(states, planner, plan, plan.heal, "finish ")
        if plan.promote:
            self.cluster.promote(states, plan.promote, staying)
            self._note(Plan(promote=plan.promote), planner)
            return True
        if plan.meet or plan.assign or plan.replicate:
            self.cluster.introduce(states, plan, staying)
            self._note(Plan(meet=plan.meet, assign=plan.assign, replicate=plan.replicate), planner)
            return True
        if plan.move:
            return self._move(states, planner, plan, plan.move)
        self.cluster.forget(states, plan.forget)
        self._note(Plan(forget=plan.forget), planner)
        return True

    def _note(self, part: Plan, planner: Planner) -> None:
        self.report.done += part.lines(planner.names)

    def _move(self, states: States, planner: Planner, plan: Plan, moves: Sequence[Move], verb: str = "") -> bool:
        if not moves:
            return True
        limits = Limits(keys_per_second=self.params["keys_per_second"], max_p99=self.params["max_p99"])
        context = Context(self.movers, members(states), limits)
        budget = self.params["time_budget"] or None
        left = None if budget is None else max(0.0, budget - self.report.seconds)
        # Slots that are open already can only be finished the way they were begun.
        way = engines.KEYS if verb else self.params["migration"]
        outcome = engines.carry_out(context, moves, left, way)
        self._count(outcome)
        self.report.done += [verb + line for line in slots.describe(shape.joined(outcome.done), planner.names)]
        self.cluster.agree(self._staying(states, plan))
        return not outcome.remaining

    def _count(self, outcome: Outcome) -> None:
        self.report.slots_moved += sum(move.count for move in outcome.done)
        self.report.keys_moved += outcome.progress.keys
        self.report.bytes_moved += outcome.progress.bytes
        self.report.migration = outcome.way or self.report.migration
        self.report.notes += outcome.notes
        self.report.seconds += outcome.progress.seconds
        self.report.remaining = sum(move.count for move in outcome.remaining)


def shape_left(plan: Plan, planner: Planner, endpoint: Endpoint) -> Disagreement:
    """Say what a plan still wants after the last round."""
    return Disagreement(endpoint, f"still to do: {', '.join(plan.lines(planner.names)[:5])}")


def _listed(errors: Mapping[Endpoint, ValkeyError], names: Mapping[Endpoint, str], but: Endpoint) -> str:
    return ", ".join(sorted(names[endpoint] for endpoint in errors if endpoint != but))


def described(declared: Sequence[Declared], states: States) -> list[dict[str, Any]]:
    """Return the nodes for the result."""
    names = shape.names_of(declared, states)
    found = []
    for node in declared:
        state = states[node.endpoint]
        me = state.view.myself
        found.append(
            {
                "name": node.name,
                "id": state.id,
                "role": "replica" if me.is_replica else "primary",
                "primary": names.get(me.primary_id, me.primary_id) if me.primary_id else "",
                "slots": ranges.text(me.slots),
                "host": node.host,
                "zone": node.zone,
                "version": state.server.version_text,
            }
        )
    return found


def run(module: AnsibleModule) -> dict[str, Any]:
    """Do what the parameters ask for. Returns the result. Raises one of FAILURES."""
    options = connection.options_from(module.params)
    slow = replace(options, timeout=max(options.timeout, MIGRATE_SECONDS))
    with Fleet(options) as fleet, Fleet(slow) as movers:
        this = Run(module.params, fleet, movers)
        if module.check_mode:
            states, planner, plan = this.look()
            this.begin(states, planner, plan)
            after = shape.rows_after(this.declared, states, plan, planner.names)
            changed = not plan.empty
        else:
            states, planner = this.converge()
            after = shape.rows(states, planner.names)
            changed = bool(this.report.done)
        diff = {"before": "\n".join(this.report.before) + "\n", "after": "\n".join(after) + "\n"}
        return {
            "changed": changed,
            "diff": diff,
            "nodes": described(this.declared, states),
            **this.report.result(),
        }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    for name in ("keys_per_second", "max_p99"):
        value = module.params[name]
        if value is not None and value <= 0:
            module.fail_json(msg=f"{name} is {value}; it has to be more than 0. Leave it out for no limit")
    if connection.library is None:
        module.fail_json(msg=missing_required_lib("valkey or redis"), exception=connection.LIBRARY_ERROR)
    try:
        result = run(module)
    except FAILURES as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
