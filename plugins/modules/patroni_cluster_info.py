#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that reads a Patroni cluster and can wait until it looks as expected."""

from __future__ import annotations

DOCUMENTATION = r"""
module: patroni_cluster_info
short_description: Read who leads a Patroni cluster, who follows, and how far behind
version_added: 0.1.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Reads members, roles, timelines, lags, waiting restarts and past promotions from one member's REST API.
  - With O(expect) it fails where the cluster is not so, after waiting up to O(wait) seconds for it. For a longer wait repeat the task
    with C(until) and C(retries), which shows the progress.
options:
  expect:
    description: What the cluster must look like.
    type: dict
    suboptions:
      leader:
        description: Whether there must be a leader that runs.
        type: bool
        default: true
      members:
        description: Names of members that must run or follow on the leader's timeline.
        type: list
        elements: str
        default: []
      minimum_synchronous:
        description: How many working synchronous or quorum standbys there must be at least.
        type: int
        default: 0
      maximum_lag:
        description: How far the O(expect.members) may be behind the leader, in bytes. Not checked if not given.
        type: int
  wait:
    description: How long to wait until the cluster is as expected, in seconds.
    type: float
    default: 0
  unit:
    description: Name of Patroni's systemd unit on this host; the last lines of its journal become part of the error.
    type: str
extends_documentation_fragment:
  - holdfast.persistence.patroni
attributes:
  check_mode:
    description: It only reads.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Find the leader
  holdfast.persistence.patroni_cluster_info:
    url: https://192.0.2.11:8008
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/postgresql.pem
  register: cluster

- name: Wait until this member follows
  holdfast.persistence.patroni_cluster_info:
    url: https://192.0.2.11:8008
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/postgresql.pem
    wait: 10
    expect:
      members: [node1]
    unit: patroni.service
  register: cluster
  until: cluster is succeeded
  retries: 30
  delay: 0
"""

RETURN = r"""
scope:
  description: Name of the cluster, empty for Patroni 3.0.
  type: str
  returned: success
  sample: orders
leader:
  description: Name of the member that holds the leader lock, empty where there is none.
  type: str
  returned: success
  sample: node1
timeline:
  description: The leader's timeline.
  type: int
  returned: success
  sample: 2
synchronous:
  description: Names of the synchronous or quorum standbys.
  type: list
  elements: str
  returned: success
  sample: [node2, node3]
pending_restart:
  description: Names of the members whose settings wait for a restart.
  type: list
  elements: str
  returned: success
  sample: [node3]
paused:
  description: Whether Patroni only watches (maintenance mode).
  type: bool
  returned: success
  sample: false
members:
  description: All members; lags are bytes behind the leader, null where unknown.
  type: list
  elements: dict
  returned: success
  sample:
    - {name: node1, role: leader, state: running, timeline: 1, lag: null, pending_restart: false}
    - {name: node2, role: quorum_standby, state: streaming, timeline: 1, lag: 0, pending_restart: false}
history:
  description: Past promotions, oldest first; C(lsn) is bytes.
  type: list
  elements: dict
  returned: success
  sample:
    - {timeline: 1, lsn: 50331808, reason: no recovery target specified, timestamp: "2026-11-26T04:12:43.511101+00:00", new_leader: node2}
config:
  description: The dynamic configuration, such as C(ttl), C(loop_wait) and C(synchronous_mode).
  type: dict
  returned: success
  sample: {ttl: 20, loop_wait: 5, retry_timeout: 5, synchronous_mode: quorum}
unmet:
  description: What of O(expect) is not so, one sentence each.
  type: list
  elements: str
  returned: always
  sample: [node1 is not a member yet]
"""

import time
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.cluster import (
    Cluster,
    Expectation,
    parse_cluster,
    parse_history,
    unmet,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.connection import argument_spec, client_of
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.rest import (
    Client,
    PatroniError,
    UntrustedError,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

PAUSE_SECONDS = 0.5
JOURNAL_LINES = 20


def observe(client: Client, wish: Expectation | None) -> tuple[Cluster, tuple[str, ...]]:
    """Return the cluster and what of the wish is unmet; a member that doesn't answer meets no wish.

    Raises PatroniError where there is no wish and no answer, Refusal for an unknown answer.
    """
    try:
        cluster = parse_cluster(client.get("/cluster"))
    except PatroniError as error:
        if wish is None or isinstance(error, UntrustedError):
            raise
        return Cluster(), (str(error),)
    return cluster, unmet(cluster, wish) if wish else ()


def observe_until(client: Client, wish: Expectation | None, wait: float) -> tuple[Cluster, tuple[str, ...]]:
    """Return the same as observe(), repeated until nothing is unmet or wait seconds are over."""
    deadline = time.monotonic() + wait
    while True:
        cluster, lines = observe(client, wish)
        if not lines or time.monotonic() >= deadline:
            return cluster, lines
        time.sleep(PAUSE_SECONDS)


def describe(cluster: Cluster, history: list[dict]) -> dict[str, object]:
    """Return what the module returns of a cluster."""
    return {
        "scope": cluster.scope,
        "leader": cluster.leader.name if cluster.leader else "",
        "timeline": cluster.timeline,
        "synchronous": [member.name for member in cluster.synchronous],
        "pending_restart": [member.name for member in cluster.pending_restart],
        "paused": cluster.paused,
        "members": [member.as_dict() for member in cluster.members],
        "history": history,
    }


def journal(module: AnsibleModule, unit: str | None) -> str:
    """Return the last lines of a unit's journal as the end of an error message."""
    if not unit:
        return ""
    command = [module.get_bin_path("journalctl", required=True), "--unit", unit, "--lines", str(JOURNAL_LINES)]
    code, out, err = module.run_command([*command, "--no-pager", "--output", "cat"])
    return f" The last lines of the journal of {unit}:\n{out.strip() if code == 0 else err.strip()}"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=argument_spec(
            expect={
                "type": "dict",
                "options": {
                    "leader": {"type": "bool", "default": True},
                    "members": {"type": "list", "elements": "str", "default": []},
                    "minimum_synchronous": {"type": "int", "default": 0},
                    "maximum_lag": {"type": "int"},
                },
            },
            wait={"type": "float", "default": 0},
            unit={"type": "str"},
        ),
        supports_check_mode=True,
    )
    expect = module.params["expect"]
    wish = Expectation(**{**expect, "members": tuple(expect["members"])}) if expect else None
    try:
        client = client_of(module.params)
        cluster, lines = observe_until(client, wish, module.params["wait"])
        if lines:
            message = "The cluster is not as expected: " + "; ".join(lines) + "."
            module.fail_json(msg=message + journal(module, module.params["unit"]), unmet=list(lines))
        history = [asdict(promotion) for promotion in parse_history(client.get("/history"))]
        config = client.get("/config")
    except (PatroniError, Refusal) as error:
        module.fail_json(msg=str(error), unmet=[])
    module.exit_json(changed=False, unmet=[], config=config, **describe(cluster, history))


if __name__ == "__main__":
    main()
