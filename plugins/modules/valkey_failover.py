#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that lets a replica of a Valkey cluster take over from its primary."""

from __future__ import annotations

DOCUMENTATION = r"""
module: valkey_failover
short_description: Fail over a shard of a Valkey cluster to a replica
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Makes a replica the primary of its shard, as a planned failover that loses nothing unless another O(mode) is chosen.
  - A planned failover waits until the replica has almost caught up, then lets the servers hand over; the old primary holds
    clients back for that moment and follows the new one afterwards.
  - At the end all members that answer are asked again and have to see the new primary with all slots of the old one.
options:
  target:
    description: The replica that shall lead, as C(address:port) or node id. Nothing happens where it leads already.
    type: str
  away_from:
    description:
      - The node that shall not lead, as C(address:port) or node id; its replica that has received most takes over.
      - Nothing happens where it leads no slots.
    type: str
  mode:
    description:
      - V(planned) needs both servers and loses no acknowledged write.
      - V(force) does without the primary; writes that the replica has not received are lost.
      - V(takeover) does without the votes of the other primaries too, for a cluster that has lost its majority.
    type: str
    choices: [planned, force, takeover]
    default: planned
  confirm_loss:
    description:
      - Has to be V(true) for the modes V(force) and V(takeover). Without it the module fails and says what may be lost.
      - Check mode says it without a confirmation.
    type: bool
    default: false
  max_lag:
    description: Bytes that the replica may be behind when a planned failover begins.
    type: int
    default: 1048576
  wait_timeout:
    description: Seconds for the replica to come within O(max_lag), and again for the takeover.
    type: float
    default: 60
extends_documentation_fragment:
  - holdfast.persistence.valkey
  - holdfast.persistence.valkey.server
attributes:
  check_mode:
    description: Names the replica that would take over, its primary, and what may be lost; refuses what could not be done.
    support: full
  diff_mode:
    description: Shows roles and slots of the two nodes before and after.
    support: full
seealso:
  - module: holdfast.persistence.valkey_cluster
"""

EXAMPLES = r"""
- name: Let a replica lead its shard
  holdfast.persistence.valkey_failover:
    host: 198.18.0.11
    port: 7001
    target: 198.18.0.12:7002

- name: Free a node from leading, before maintenance
  holdfast.persistence.valkey_failover:
    host: 198.18.0.11
    port: 7001
    away_from: 198.18.0.11:7001

- name: The majority is gone for good, serve again
  holdfast.persistence.valkey_failover:
    host: 198.18.0.12
    port: 7002
    target: 198.18.0.12:7002
    mode: takeover
    confirm_loss: true
"""

RETURN = r"""
promoted:
  description: The node that took over, C(address:port); in check mode the one that would. Empty when nothing had to happen.
  type: str
  returned: success
  sample: 198.18.0.12:7002
primary:
  description: The node that it took over from.
  type: str
  returned: success
  sample: 198.18.0.11:7001
reason:
  description: Why nothing had to happen.
  type: str
  returned: success
  sample: 198.18.0.12:7002 is a primary already
lag:
  description: Bytes that the replica was behind at the first look, null where the primary did not answer.
  type: int
  returned: success
  sample: 0
risk:
  description: What may be lost, empty for a planned failover.
  type: str
  returned: success
  sample: ""
seconds:
  description: Time from the command until all members saw the new primary.
  type: float
  returned: success
  sample: 0.665
"""

import time
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import connection, failover, ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Endpoint,
    Fleet,
    ValkeyError,
    checked,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.failover import Decision
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.nodes import resolved
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import (
    Server,
    View,
    parse_nodes,
    parse_server,
)

POLL = 0.05
# Servers give a manual failover up after 5 s; then it has to be asked for again.
ASK_AGAIN = 6.0
COMMANDS = {failover.PLANNED: (), failover.FORCE: ("FORCE",), failover.TAKEOVER: ("TAKEOVER",)}

ARGUMENTS: dict[str, Any] = {
    "target": {"type": "str"},
    "away_from": {"type": "str"},
    "mode": {"type": "str", "choices": list(failover.MODES), "default": failover.PLANNED},
    "confirm_loss": {"type": "bool", "default": False},
    "max_lag": {"type": "int", "default": 1048576},
    "wait_timeout": {"type": "float", "default": 60.0},
    **connection.argument_spec(),
    **connection.server_argument_spec(),
}


class Run:
    """One run: reads the cluster through one member, decides, acts, reads all members again."""

    def __init__(self, params: Mapping[str, Any], fleet: Fleet) -> None:
        self.params = params
        self.fleet = fleet
        self.entry = Endpoint(resolved(params["host"]), params["port"])

    def look(self) -> tuple[View, dict[str, Server]]:
        """Return the cluster as the entry sees it, and what each member that answers says. Raises ValkeyError."""
        view = parse_nodes(self.fleet.client(self.entry).call("CLUSTER", "NODES"))
        found = {}
        for node in view.members:
            endpoint = self.endpoint(view, node.id)
            if node.failed or self.fleet.connect([endpoint]):
                continue
            found[node.id] = parse_server(self.fleet.client(endpoint).call("INFO"))
        return view, found

    def endpoint(self, view: View, node: str) -> Endpoint:
        """Where a member listens for us."""
        if node == view.myself.id:
            return self.entry
        return Endpoint(view.by_id[node].address, view.by_id[node].port)

    def decide(self, view: View, servers: Mapping[str, Server]) -> Decision:
        """Return the decision. Raises Refusal."""
        return failover.decide(
            view,
            servers,
            self.params["mode"],
            target=self.params["target"] or "",
            away_from=self.params["away_from"] or "",
        )

    def await_offset(self, decision: Decision) -> Decision:
        """Wait until the replica is close enough. Returns the last decision. Raises Refusal, ValkeyError."""
        deadline = time.monotonic() + self.params["wait_timeout"]
        while decision.promote and (decision.lag or 0) > self.params["max_lag"]:
            if time.monotonic() > deadline:
                raise Refusal(
                    f"the replica is {decision.lag} bytes behind after {self.params['wait_timeout']:.0f} s"
                    f" (max_lag {self.params['max_lag']})",
                    "Nothing was changed. Wait for the write burst to end, or raise max_lag or wait_timeout",
                )
            time.sleep(POLL)
            decision = self.decide(*self.look())
        return decision

    def act(self, view: View, decision: Decision, members: Mapping[str, Server]) -> float:
        """Fail over and wait until all members see it. Returns the seconds. Raises Refusal, ValkeyError."""
        endpoint = self.endpoint(view, decision.promote)
        slots = view.by_id[decision.primary].slots
        start = time.monotonic()
        asked = 0.0
        while True:
            late = failover.not_yet(self.views(view, members), decision, slots)
            now = time.monotonic()
            if not late:
                return now - start
            if now - start > self.params["wait_timeout"]:
                raise Refusal(
                    f"{endpoint} did not take over for all within {self.params['wait_timeout']:.0f} s: {'; '.join(late[:5])}",
                    "Run again; if it stays, see its log and check the bus ports between the hosts",
                )
            if (not asked or now - asked > ASK_AGAIN) and not self.leads(endpoint):
                self.fleet.client(endpoint).call("CLUSTER", "FAILOVER", *COMMANDS[self.params["mode"]])
                asked = now
            time.sleep(POLL)

    def leads(self, endpoint: Endpoint) -> bool:
        """Whether a server is a primary by its own word."""
        return parse_nodes(self.fleet.client(endpoint).call("CLUSTER", "NODES")).myself.is_primary

    def views(self, view: View, members: Mapping[str, Server]) -> dict[str, View]:
        """Return the cluster as each member that answered at first sees it now."""
        asked = {self.endpoint(view, node): [("CLUSTER", "NODES")] for node in members}
        return {str(e): parse_nodes(checked(reply)) for e, [reply] in self.fleet.each(asked).items()}


def described(view: View, nodes: tuple[str, ...]) -> str:
    """Return roles and slots of nodes as people read them."""
    lines = []
    for node in sorted((view.by_id[identity] for identity in nodes), key=lambda found: found.endpoint):
        leader = view.by_id.get(node.primary_id or "")
        what = f"replica of {leader.endpoint}" if leader else f"primary {ranges.text(node.slots) or 'without slots'}"
        lines.append(f"{node.endpoint} {what}\n")
    return "".join(lines)


def swapped(view: View, decision: Decision) -> str:
    """Return what described() will say after the failover."""
    old, new = view.by_id[decision.primary], view.by_id[decision.promote]
    lines = [f"{new.endpoint} primary {ranges.text(old.slots)}\n", f"{old.endpoint} replica of {new.endpoint}\n"]
    return "".join(sorted(lines))


def run(module: AnsibleModule) -> dict[str, Any]:
    """Do what the parameters ask for. Returns the result. Raises Refusal, ValkeyError."""
    with Fleet(connection.options_from(module.params)) as fleet:
        this = Run(module.params, fleet)
        view, servers = this.look()
        decision = this.decide(view, servers)
        result: dict[str, Any] = {
            "changed": bool(decision.promote),
            "promoted": view.by_id[decision.promote].endpoint if decision.promote else "",
            "primary": view.by_id[decision.primary].endpoint if decision.primary else "",
            "reason": decision.reason,
            "lag": decision.lag,
            "risk": decision.risk,
            "seconds": 0.0,
        }
        if not decision.promote:
            return result
        pair = (decision.promote, decision.primary)
        result["diff"] = {"before": described(view, pair), "after": swapped(view, decision)}
        if module.check_mode:
            return result
        if decision.risk and not module.params["confirm_loss"]:
            raise Refusal(
                f"mode {module.params['mode']} needs a confirmation, nothing was changed. What may be lost: {decision.risk}",
                "To do it anyway, set confirm_loss to true",
            )
        if not decision.risk:
            wished = decision
            decision = this.await_offset(decision)
            if (decision.promote, decision.primary) != (wished.promote, wished.primary):
                raise Refusal("roles changed while the replica caught up", "Run again")
        result["seconds"] = round(this.act(view, decision, servers), 3)
        return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        mutually_exclusive=[("target", "away_from")],
        required_one_of=[("target", "away_from")],
    )
    if connection.library is None:
        module.fail_json(msg=missing_required_lib("valkey or redis"), exception=connection.LIBRARY_ERROR)
    try:
        result = run(module)
    except (Refusal, ValkeyError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
