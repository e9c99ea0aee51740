#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that joins the servers of a Valkey cluster again after their addresses changed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: valkey_meet
short_description: Reconnect the servers of a Valkey cluster after their addresses changed
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - A cluster whose servers all come back with other addresses at once stays down for ever, as its bus knows nothing but the old
    ones. One server meets every other where that is now; ids, slots and data are as they were.
  - Only members are met. A server that the cluster does not know, such as one that lost its disk, is left to
    M(holdfast.persistence.valkey_cluster), and two clusters are never merged.
  - Each server has to be started with its own new address as C(cluster-announce-ip); the one that meets the others would otherwise continue
    telling clients its old one.
options:
  nodes:
    description: The servers of the cluster. Those that do not answer, or whose names do not resolve, are left out and returned.
    type: list
    elements: dict
    required: true
    suboptions:
      address:
        description: Address or name at which this module reaches the node now.
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
  wait_timeout:
    description: Seconds in which the servers have to agree again.
    type: float
    default: 60
extends_documentation_fragment:
  - holdfast.persistence.valkey
attributes:
  check_mode:
    description: Says who would be met.
    support: full
  diff_mode:
    description: Shows which server does not reach which before, and nothing after.
    support: full
seealso:
  - module: holdfast.persistence.valkey_cluster
"""

EXAMPLES = r"""
- name: Join the pods of a StatefulSet again
  holdfast.persistence.valkey_meet:
    nodes:
      - {address: orders-valkey-0.orders-valkey, port: 6379}
      - {address: orders-valkey-1.orders-valkey, port: 6379}
      - {address: orders-valkey-2.orders-valkey, port: 6379}

- name: Say which pods do not know each other
  holdfast.persistence.valkey_meet:
    nodes:
      - {address: orders-valkey-0.orders-valkey, port: 6379}
      - {address: orders-valkey-1.orders-valkey, port: 6379}
  check_mode: true
"""

RETURN = r"""
met:
  description: C(address:port) of every server that was met; in check mode that would be.
  type: list
  elements: str
  returned: success
  sample: ["10.244.1.7:6379", "10.244.2.9:6379"]
strangers:
  description: C(address:port) of servers that answer and are no members of the cluster.
  type: list
  elements: str
  returned: success
  sample: ["10.244.3.4:6379"]
unreachable:
  description: Why servers were left out, a line each.
  type: list
  elements: str
  returned: success
  sample: ["no-such-pod.invalid: name not found ([Errno -2] Name or service not known)"]
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import connection, meeting
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.agreeing import Agreement, unsettled
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Endpoint, Fleet, ValkeyError
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.nodes import NODE_OPTIONS, resolved
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import View, parse_nodes

POLL = 0.2
# A meeting that found nobody is given up by the server after its node timeout, so it is asked for again.
AGAIN = 2.0

ARGUMENTS: dict[str, Any] = {
    "nodes": {"type": "list", "elements": "dict", "required": True, "options": NODE_OPTIONS},
    "wait_timeout": {"type": "float", "default": 60.0},
    **connection.argument_spec(),
}


def reach(fleet: Fleet, items: Sequence[Mapping[str, Any]]) -> tuple[list[Endpoint], list[str]]:
    """Connect. Returns where servers are, and why others were left out. Raises Refusal when none answers."""
    found, silent = [], []
    for item in items:
        try:
            found.append(Endpoint(resolved(item["address"]), item["port"]))
        except Refusal as error:
            silent.append(error.problem)
    errors = fleet.connect(found)
    for trouble in errors.values():
        if not isinstance(trouble, connection.UnreachableError):
            raise trouble
    there = [endpoint for endpoint in found if endpoint not in errors]
    silent += [f"{trouble.endpoint}: {trouble.problem}" for trouble in errors.values()]
    if not there:
        raise Refusal(f"no server of nodes answers: {'; '.join(silent)}", "Check that the servers run, then run again")
    return there, silent


def views(fleet: Fleet, there: Sequence[Endpoint]) -> dict[Endpoint, View]:
    """Return the cluster as each server sees it. Raises ValkeyError."""
    return {endpoint: parse_nodes(reply) for endpoint, reply in fleet.all(there, "CLUSTER", "NODES").items()}


def meet(fleet: Fleet, members: Sequence[Endpoint], seconds: float) -> None:
    """Let one server meet the others, again where need be, until all agree. Raises Refusal, ValkeyError."""
    agreement = Agreement(fleet)
    start, asked = time.monotonic(), float("-inf")
    while True:
        planned = meeting.plan(views(fleet, members))
        missing = agreement.disagreements(members, set())
        if not planned.others and not missing:
            return
        now = time.monotonic()
        if now - start > seconds:
            raise unsettled(now - start, missing)
        if planned.others and now - asked > AGAIN:
            for other in planned.others:
                fleet.client(planned.seed).call("CLUSTER", "MEET", other.address, other.port)
            asked = now
        time.sleep(POLL)


def run(module: AnsibleModule) -> dict[str, Any]:
    """Do what the parameters ask for. Returns the result."""
    with Fleet(connection.options_from(module.params)) as fleet:
        there, silent = reach(fleet, module.params["nodes"])
        seen = views(fleet, there)
        planned = meeting.plan(seen)
        members = [endpoint for endpoint in there if endpoint not in planned.strangers]
        if planned.others and not module.check_mode:
            meet(fleet, members, module.params["wait_timeout"])
    lost = meeting.outdated({endpoint: seen[endpoint] for endpoint in members}) if planned.others else ()
    return {
        "changed": bool(planned.others),
        "met": [str(other) for other in planned.others],
        "strangers": [str(stranger) for stranger in planned.strangers],
        "unreachable": silent,
        "diff": {"before": "".join(f"{line}\n" for line in lost), "after": ""},
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
