#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that makes a Valkey cluster forget the instances of a machine that is gone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: valkey_forget
short_description: Make a Valkey cluster forget the instances of a machine that is gone
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Every member that stays forgets the lost ones at once, so that gossip cannot bring them back within the minute for which
    a forgotten id is banned.
  - It refuses while a lost instance still answers as a member, while the cluster does not see it as down, and while it owns
    slots.
options:
  nodes:
    description: The nodes that stay; all of them have to answer.
    type: list
    elements: dict
    required: true
    suboptions: &node
      address:
        description: Address or name at which this module reaches the node.
        type: str
        required: true
      port:
        description: Client port, the TLS port with O(tls).
        type: int
        required: true
      host:
        description: Not used here.
        type: str
      zone:
        description: Not used here.
        type: str
        default: ""
      weight:
        description: Not used here.
        type: float
        default: 1.0
      role:
        description: Not used here.
        type: str
        choices: [primary, replica]
      slots:
        description: Not used here.
        type: str
        default: ""
      state:
        description: Not used here.
        type: str
        choices: [present, absent]
        default: present
  gone:
    description: The instances that are gone, by where they listened.
    type: list
    elements: dict
    required: true
    suboptions: *node
  wait_timeout:
    description: Seconds in which the cluster has to see the lost instances as down, and to have forgotten them.
    type: float
    default: 60
extends_documentation_fragment:
  - holdfast.persistence.valkey
attributes:
  check_mode:
    description: Says what would be forgotten.
    support: full
  diff_mode:
    description: Shows the members before and after.
    support: full
seealso:
  - module: holdfast.persistence.valkey_cluster
"""

EXAMPLES = r"""
- name: Forget a machine that burnt
  holdfast.persistence.valkey_forget:
    nodes: "{{ nodes_that_stay }}"
    gone:
      - {address: 198.18.0.13, port: 7001}
      - {address: 198.18.0.13, port: 7002}

- name: Say what would be forgotten
  holdfast.persistence.valkey_forget:
    nodes: "{{ nodes_that_stay }}"
    gone:
      - {address: 198.18.0.13, port: 7001}
  check_mode: true
"""

RETURN = r"""
forgotten:
  description: C(address:port) of what was forgotten by node id; in check mode of what would be.
  type: dict
  returned: success
  sample: {272a696ae894ad6f4d1976c45df76bcf5c8ffb72: "198.18.0.13:7001"}
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import connection, forget
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Endpoint,
    Fleet,
    ReplyError,
    ValkeyError,
    checked,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.nodes import NODE_OPTIONS, resolved
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import (
    View,
    parse_nodes,
)

POLL = 0.2

ARGUMENTS: dict[str, Any] = {
    "nodes": {"type": "list", "elements": "dict", "required": True, "options": NODE_OPTIONS},
    "gone": {"type": "list", "elements": "dict", "required": True, "options": NODE_OPTIONS},
    "wait_timeout": {"type": "float", "default": 60.0},
    **connection.argument_spec(),
}


def endpoints(items: Sequence[Mapping[str, Any]]) -> list[Endpoint]:
    """Return where nodes listen. Raises Refusal."""
    return [Endpoint(resolved(item["address"]), item["port"]) for item in items]


def views(fleet: Fleet, staying: Sequence[Endpoint]) -> list[View]:
    """Return the cluster as each node sees it. Raises ValkeyError."""
    return [parse_nodes(reply) for reply in fleet.all(staying, "CLUSTER", "NODES").values()]


def answering(fleet: Fleet, gone: Sequence[Endpoint]) -> dict[Endpoint, str]:
    """Return the ids of those that answer after all; a machine made anew may run instances with ids of their own."""
    silent = fleet.connect(gone)
    return {e: fleet.client(e).call("CLUSTER", "MYID") for e in gone if e not in silent}


def await_plan(
    fleet: Fleet, staying: Sequence[Endpoint], gone: Sequence[Endpoint], seconds: float
) -> tuple[list[View], dict[str, str]]:
    """Return what members see and what is to be forgotten, once the cluster sees it as down. Raises Refusal."""
    alive = answering(fleet, gone)
    deadline = time.monotonic() + seconds
    while True:
        seen = views(fleet, staying)
        try:
            return seen, forget.plan(seen, gone, alive)
        except Refusal:
            # Whom the cluster still sees up, or without a successor, may be seen down a node timeout later.
            if alive or time.monotonic() > deadline:
                raise
        time.sleep(POLL)


def carry_out(fleet: Fleet, staying: Sequence[Endpoint], ids: Sequence[str], seconds: float) -> None:
    """Let every member forget, until none knows the ids any more. Raises Refusal, ValkeyError."""
    deadline = time.monotonic() + seconds
    while True:
        replies = fleet.each({e: [("CLUSTER", "FORGET", identity) for identity in ids] for e in staying})
        for reply in (reply for found in replies.values() for reply in found):
            if not (isinstance(reply, ReplyError) and "Unknown node" in reply.problem):
                checked(reply)
        known = {node.id for view in views(fleet, staying) for node in view.nodes}
        left = known.intersection(ids)
        if not left:
            return
        if time.monotonic() > deadline:
            raise Refusal(f"{', '.join(sorted(left))} came back by gossip", "Run again while all members are up")
        time.sleep(POLL)


def run(module: AnsibleModule) -> dict[str, Any]:
    """Do what the parameters ask for. Returns the result."""
    staying, gone = endpoints(module.params["nodes"]), endpoints(module.params["gone"])
    with Fleet(connection.options_from(module.params)) as fleet:
        for error in fleet.connect(staying).values():
            raise error
        seen, planned = await_plan(fleet, staying, gone, 0.0 if module.check_mode else module.params["wait_timeout"])
        before = {node.id: node.endpoint for view in seen for node in view.members}
        if planned and not module.check_mode:
            carry_out(fleet, staying, list(planned), module.params["wait_timeout"])

    def lines(left: Mapping[str, str]) -> str:
        return "".join(f"{where} {identity}\n" for identity, where in sorted(left.items(), key=lambda item: item[1]))

    after = {identity: where for identity, where in before.items() if identity not in planned}
    return {
        "changed": bool(planned),
        "forgotten": planned,
        "diff": {"before": lines(before), "after": lines(after)},
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    if connection.library is None:
        module.fail_json(msg=missing_required_lib("valkey or redis"), exception=connection.LIBRARY_ERROR)
    try:
        result = run(module)
    except (Refusal, ValkeyError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
