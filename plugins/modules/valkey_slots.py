#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that gives slots of a Valkey cluster to the primaries that an operator names."""

from __future__ import annotations

DOCUMENTATION = r"""
module: valkey_slots
short_description: Assign slots of a Valkey cluster by range, by weight, or away from a node
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Moves slots with their keys between the primaries of a running cluster, the fewest that fulfil what is asked for.
  - Membership, roles and replicas stay as they are; M(holdfast.persistence.valkey_cluster) changes those, by a
    declaration of the whole cluster, and moves slots back to what is declared there.
  - Slots that an interrupted run or another tool left open are finished first. Slots without an owner go to the node that holds their
    keys, or are shared out if no node holds any.
  - A run that was interrupted at any point is finished by the next one.
  - Nodes are named by node id, by C(address:port), or as O(names) says.
options:
  layout:
    description: Slots of every primary. All of 0-16383 have to be in it, each once.
    type: list
    elements: dict
    suboptions:
      node:
        description: The primary.
        type: str
        required: true
      slots:
        description: Its slots, as V(0-99 1000).
        type: str
        required: true
  weights:
    description:
      - Share of slots by primary. Those that are not named have a weight of 1, V(0) drains.
      - Slots are balanced by the weights, within one slot.
    type: dict
  drain:
    description:
      - Primaries that give all their slots to the others. They stay in the cluster, empty; servers with
        C(cluster-allow-replica-migration yes), their default, turn into a replica of another primary by themselves then.
      - Without O(weights) the others give none of theirs. A replica has nothing to give.
    type: list
    elements: str
  pins:
    description:
      - Slots that a primary has to own; they count towards its share.
      - Without O(weights) no other slots move.
    type: list
    elements: dict
    suboptions:
      node:
        description: The primary.
        type: str
        required: true
      slots:
        description: Its slots, as V(0-99 1000).
        type: str
        required: true
  names:
    description: What people call nodes, by C(address:port). They are shown by these names and may be named so.
    type: dict
    default: {}
extends_documentation_fragment:
  - holdfast.persistence.valkey
  - holdfast.persistence.valkey.server
  - holdfast.persistence.valkey.moves
attributes:
  check_mode:
    description: Returns the plan and changes nothing.
    support: full
  diff_mode:
    description: Shows the slots of each node before and after.
    support: full
notes:
  - O(host) and O(port) name any member; the others are found through it, and all of them have to answer.
seealso:
  - module: holdfast.persistence.valkey_cluster
  - module: holdfast.persistence.valkey_cluster_info
"""

EXAMPLES = r"""
- name: See where slots would go if one node had twice the share
  holdfast.persistence.valkey_slots:
    host: 198.18.0.11
    port: 7001
    weights:
      198.18.0.13:7001: 2
  check_mode: true

- name: Free a node of slots, half a minute at a time
  holdfast.persistence.valkey_slots:
    host: 198.18.0.11
    port: 7001
    drain: ["198.18.0.13:7001"]
    time_budget: 30
  register: drained
  until: drained.remaining == 0
  retries: 100
  delay: 0

- name: Keep the slots of two tenants on a node of their own
  holdfast.persistence.valkey_slots:
    host: 198.18.0.11
    port: 7001
    pins:
      - {node: "198.18.0.12:7001", slots: "866 4012"}

- name: Put every slot where it was when a backup was made
  holdfast.persistence.valkey_slots:
    host: 198.18.0.11
    port: 7001
    layout:
      - {node: "198.18.0.11:7001", slots: "0-5460"}
      - {node: "198.18.0.12:7001", slots: "5461-10922"}
      - {node: "198.18.0.13:7001", slots: "10923-16383"}
"""

RETURN = r"""
plan:
  description: What was asked for when the run began, a line for each step.
  returned: always
  type: list
  elements: str
  sample: ["0-1365 node1:7001 -> node3:7002"]
done:
  description: Steps that were carried out. In check mode none.
  returned: always
  type: list
  elements: str
  sample: ["6070-6826 198.18.0.12:7001 -> 198.18.0.11:7001", "11499-12287 198.18.0.13:7001 -> 198.18.0.11:7001"]
remaining:
  description: Number of slots that still have to change their owner. In check mode those of the plan.
  returned: always
  type: int
  sample: 0
slots_moved:
  description: Number of slots that changed their owner.
  returned: always
  type: int
  sample: 1546
keys_moved:
  description: Number of keys that were moved with them.
  returned: always
  type: int
  sample: 62
bytes_moved:
  description: Their size by MEMORY USAGE, of those that were moved key by key.
  returned: always
  type: int
  sample: 7936
migration:
  description: How slots were moved, C(atomic), C(keys), C(atomic+keys), or empty when none were.
  returned: always
  type: str
  sample: keys
notes:
  description: What happened on the way that an operator may want to know, such as jobs that the servers gave up.
  returned: always
  type: list
  elements: str
  sample: []
keys_per_second:
  description: Rate at which keys were moved.
  returned: always
  type: float
  sample: 512.4
seconds_left:
  description: Estimated seconds for the remaining slots, null when nothing was moved.
  returned: always
  type: float
  sample: 0.0
nodes:
  description: Primaries after the run.
  returned: always
  type: list
  elements: dict
  sample:
    - name: "198.18.0.11:7001"
      id: fc66c9e51b734b2d400462a6d6442284e61ae15b
      slots: 0-6826 10923-12287
      slot_count: 8192
    - name: "198.18.0.12:7001"
      id: 5c70b14dddd4ad7862960a61489acc7ef500c7f7
      slots: 6827-10922
      slot_count: 4096
  contains:
    name:
      description: As O(names) says, else C(address:port).
      type: str
    id:
      description: Node id.
      type: str
    slots:
      description: Ranges of slots that it owns.
      type: str
    slot_count:
      description: Number of slots that it owns.
      type: int
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import connection, ranges, shape
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.assignment import Assigner, Request
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.cluster import Cluster
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Endpoint, Fleet
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.moving import converge
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.moving.converge import Converger
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.nodes import resolved
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.shape import States
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import parse_nodes

SLOTS_OF_NODE = {"node": {"type": "str", "required": True}, "slots": {"type": "str", "required": True}}
ASKED = ("layout", "weights", "drain", "pins")

ARGUMENTS: dict[str, Any] = {
    "layout": {"type": "list", "elements": "dict", "options": SLOTS_OF_NODE},
    "weights": {"type": "dict"},
    "drain": {"type": "list", "elements": "str"},
    "pins": {"type": "list", "elements": "dict", "options": SLOTS_OF_NODE},
    "names": {"type": "dict", "default": {}},
    **converge.MOVE_OPTIONS,
    **connection.argument_spec(),
    **connection.server_argument_spec(),
}


def request_of(params: Mapping[str, Any]) -> Request:
    """Return what is asked for. Raises Refusal for what is no slot and no weight."""
    return Request(
        layout=_slots_of_nodes("layout", params["layout"]),
        weights=_weights(params["weights"] or {}),
        drain=tuple(params["drain"] or ()),
        pins=_slots_of_nodes("pins", params["pins"]),
    )


def _slots_of_nodes(option: str, items: Sequence[Mapping[str, str]] | None) -> tuple[tuple[str, ranges.Ranges], ...]:
    found = []
    for item in items or ():
        try:
            found.append((item["node"], ranges.parse_ranges(item["slots"])))
        except ValueError as error:
            raise Refusal(f"{option}, {item['node']}: {error}", "Write slots as 0-99 1000") from error
    return tuple(found)


def _weights(items: Mapping[str, Any]) -> dict[str, Fraction]:
    found = {}
    for node, value in items.items():
        try:
            found[node] = Fraction(str(value))
        except (ValueError, ZeroDivisionError) as error:
            raise Refusal(f"weights, {node}: {value!r} is not a number", "Write a number, 0 drains the node") from error
        if found[node] < 0:
            raise Refusal(f"weights, {node}: {value} is negative", "Write a number, 0 drains the node")
    return found


def find_members(fleet: Fleet, entry: Endpoint) -> list[Endpoint]:
    """Connect to all members and return where they are; dead ones without slots are left out. Raises ValkeyError, Refusal."""
    view = parse_nodes(fleet.client(entry).call("CLUSTER", "NODES"))
    if view.alone and not view.myself.slots:
        raise Refusal(f"{entry} is in no cluster", "Form one with valkey_cluster, or name a member")
    endpoints = {
        node.id: entry if node.myself else Endpoint(node.address, node.port)
        for node in view.members
        if node.has_address and (node.slots or not node.failed)
    }
    errors = fleet.connect(endpoints.values())
    if errors:
        raise next(iter(errors.values()))
    return list(endpoints.values())


def described(states: States, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the primaries for the result, by their first slot."""
    primaries = [state.view.myself for state in states.values() if state.view.myself.is_primary]
    return [
        {
            "name": names.get(node.id, node.id),
            "id": node.id,
            "slots": ranges.text(node.slots),
            "slot_count": ranges.count(node.slots),
        }
        for node in sorted(primaries, key=lambda node: (not node.slots, node.slots, names.get(node.id, "")))
    ]


def run(module: AnsibleModule) -> dict[str, Any]:
    """Do what the parameters ask for. Returns the result. Raises one of converge.FAILURES."""
    params = module.params
    request = request_of(params)
    options = connection.options_from(params)
    slow = replace(options, timeout=max(options.timeout, converge.MIGRATE_SECONDS))
    with Fleet(options) as fleet, Fleet(slow) as movers:
        endpoints = find_members(fleet, Endpoint(resolved(params["host"]), params["port"]))
        group = Cluster(fleet, endpoints, wait_timeout=params["wait_timeout"])
        this = Converger(params, group, movers, lambda states: Assigner(request, states, params["names"]))
        if module.check_mode:
            states, planner, plan = this.look()
            after = shape.rows_after(states, plan, planner.names)
            changed = not plan.empty
        else:
            states, planner = this.converge()
            after = shape.rows(states, planner.names)
            changed = bool(this.report.done)
        return {
            "changed": changed,
            "diff": {"before": "\n".join(this.report.before) + "\n", "after": "\n".join(after) + "\n"},
            "nodes": described(states, planner.names),
            **this.report.result(),
        }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        required_one_of=[ASKED],
        mutually_exclusive=[("layout", other) for other in ASKED[1:]],
    )
    problem = converge.check_limits(module.params)
    if problem:
        module.fail_json(msg=problem)
    if connection.library is None:
        module.fail_json(msg=missing_required_lib("valkey or redis"), exception=connection.LIBRARY_ERROR)
    try:
        result = run(module)
    except converge.FAILURES as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
