#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
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
extends_documentation_fragment:
  - holdfast.persistence.valkey
  - holdfast.persistence.valkey.moves
attributes:
  check_mode:
    description: Returns the plan and changes nothing.
    support: full
  diff_mode:
    description: Shows role and slots of each node before and after.
    support: full
seealso:
  - module: holdfast.persistence.valkey_slots
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

- name: Move slots half a minute at a time
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
  sample: ["6070-6826 node2:7001 -> node1:7001", "11499-12287 node3:7001 -> node1:7001"]
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
formed:
  description: Whether this run made the cluster out of nodes without any slot.
  returned: always
  type: bool
  sample: false
nodes:
  description: Every declared node after the run.
  returned: always
  type: list
  elements: dict
  sample:
    - name: "node2:7002"
      id: 1266ed0366cb95d00d81cb0541d7251a26a8f4fa
      role: replica
      primary: "node1:7001"
      slots: ""
      host: node2
      zone: z2
      version: 8.1.1
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

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import connection, ranges, shape
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.cluster import Cluster
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Endpoint,
    Fleet,
    ValkeyError,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.moving import converge
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.moving.converge import Converger
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.nodes import NODE_OPTIONS, declared_node
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.shape import Declared, Planner, States

ARGUMENTS: dict[str, Any] = {
    "nodes": {"type": "list", "elements": "dict", "required": True, "options": NODE_OPTIONS},
    "replicas": {"type": "int", "default": 1},
    "balance": {"type": "bool", "default": True},
    "forget_failed": {"type": "bool", "default": False},
    **converge.MOVE_OPTIONS,
    **connection.argument_spec(),
}


def connect(fleet: Fleet, declared: Sequence[Declared]) -> None:
    """Connect to all nodes. Raises the first one's ValkeyError, which names the others that failed."""
    errors = fleet.connect(node.endpoint for node in declared)
    if not errors:
        return
    names = {node.endpoint: node.name for node in declared}
    first = min(errors, key=lambda endpoint: names[endpoint])
    more = f" ({len(errors) - 1} more nodes failed: {_listed(errors, names, first)})" if len(errors) > 1 else ""
    raise type(errors[first])(first, f"{names[first]}: {errors[first].problem}{more}", errors[first].remedy)


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
    """Do what the parameters ask for. Returns the result. Raises one of converge.FAILURES."""
    params = module.params
    declared = [declared_node(item) for item in params["nodes"]]
    shape.check_declaration(declared)

    def planner(states: States) -> Planner:
        return Planner(
            declared,
            states,
            replicas=params["replicas"],
            balance=params["balance"],
            forget_failed=params["forget_failed"],
        )

    options = connection.options_from(params)
    slow = replace(options, timeout=max(options.timeout, converge.MIGRATE_SECONDS))
    with Fleet(options) as fleet, Fleet(slow) as movers:
        connect(fleet, declared)
        group = Cluster(fleet, [node.endpoint for node in declared], wait_timeout=params["wait_timeout"])
        this = Converger(params, group, movers, planner)
        if module.check_mode:
            states, planned, plan = this.look()
            after = shape.rows_after(states, plan, planned.names, leaving(declared, states))
            changed = not plan.empty
        else:
            states, planned = this.converge()
            after = shape.rows(states, planned.names)
            changed = bool(this.report.done)
        return {
            "changed": changed,
            "diff": {"before": "\n".join(this.report.before) + "\n", "after": "\n".join(after) + "\n"},
            "nodes": described(declared, states),
            "formed": this.report.formed,
            **this.report.result(),
        }


def leaving(declared: Sequence[Declared], states: States) -> set[str]:
    """Return the ids of the nodes that are declared absent."""
    return {states[node.endpoint].id for node in declared if not node.present}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
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
