#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that gives an etcd cluster that is full, or nearly, its room back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_space
short_description: Free space in an etcd cluster that has reached its quota
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Where a member's database has reached the quota, or takes more than four fifths of it, compacts the history, defragments
    B(every) member, the leader last, and disarms the alarm NOSPACE last. In another order the next write raises the alarm again.
  - Proves it by a write, a lease that is revoked at once.
  - Does nothing where there is no alarm and every database has room. May be killed at any step and run again.
options:
  quota_mebibytes:
    description: Limit of the database's size that the members run with, in MiB.
    type: int
    default: 2048
  patience:
    description: Seconds that one member may take to defragment; it answers nobody meanwhile.
    type: float
    default: 120
extends_documentation_fragment:
  - holdfast.persistence.etcd
attributes:
  check_mode:
    description: Tells the steps, and refuses what it would refuse.
    support: full
  diff_mode:
    description: Shows sizes and alarms before and after.
    support: full
"""

EXAMPLES = r"""
- name: Have room in etcd
  holdfast.persistence.etcd_space:
    endpoints: [https://192.0.2.11:2379, https://192.0.2.12:2379, https://192.0.2.13:2379]
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/etcd-client.pem
    username: root
    password: "{{ vault_etcd_root_password }}"
  run_once: true

- name: Say what would be done
  holdfast.persistence.etcd_space:
    endpoints: [https://192.0.2.11:2379, https://192.0.2.12:2379, https://192.0.2.13:2379]
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/etcd-client.pem
    username: root
    password: "{{ vault_etcd_root_password }}"
  run_once: true
  check_mode: true
"""

RETURN = r"""
steps:
  description: What was done, in its order; in check mode what would be done.
  type: list
  elements: str
  returned: success
  sample: [compact the history, defragment node2, defragment node3, defragment node1, disarm the alarm NOSPACE]
sizes:
  description: Bytes of each member's database, by its name, as they are now.
  type: dict
  returned: success
  sample: {node1: 20480, node2: 20480, node3: 20480}
"""

import dataclasses
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.client import (
    Client,
    EtcdError,
    argument_spec,
    from_params,
    patiently,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.cluster import Cluster, Member
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.observe import read_cluster
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.space import (
    NOSPACE,
    Step,
    plan,
    unfit,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

# api/v3rpc/rpctypes/error.go, ErrGRPCCompacted: an earlier run compacted up to here.
COMPACTED = "required revision has been compacted"
# Seconds that a cluster may be without a leader.
ELECTION_SECONDS = 10.0


def compact(client: Client, cluster: Cluster) -> None:
    """Forget all history, and wait until the pages are free. Raises EtcdError."""
    revision = max(member.status.revision for member in cluster.members if member.status is not None)
    try:
        client.ask("/v3/kv/compaction", {"revision": str(revision), "physical": True})
    except EtcdError as error:
        if COMPACTED not in error.message:
            raise


def defragment(client: Client, member: Member) -> None:
    """Rewrite one member's file without its free pages. Raises EtcdError."""
    url = member.client_urls[0].rstrip("/")
    client.ask_one(url, "/v3/maintenance/defragment")


def disarm(client: Client, cluster: Cluster) -> None:
    """Take every NOSPACE alarm back. Raises EtcdError."""
    for alarm in cluster.alarms:
        if alarm.kind == NOSPACE:
            body = {"action": "DEACTIVATE", "memberID": alarm.member_id, "alarm": NOSPACE}
            client.ask("/v3/maintenance/alarm", body)


def prove(client: Client) -> None:
    """Write something that goes again. Raises EtcdError where etcd still refuses."""
    lease = client.ask("/v3/lease/grant", {"TTL": "30"})
    client.ask("/v3/lease/revoke", {"ID": lease["ID"]})


def carry_out(client: Client, cluster: Cluster, steps: tuple[Step, ...], quota: int) -> Cluster:
    """Do the steps; return the cluster after them. Raises EtcdError and Refusal."""
    for step in steps:
        if step.action == "compact":
            compact(client, cluster)
        elif step.member is not None:
            defragment(client, step.member)
    after = patiently(lambda: read_cluster(client, has_user=True), ELECTION_SECONDS)
    if reason := unfit(after, quota):
        raise Refusal(reason)
    disarm(client, after)
    prove(client)
    return patiently(lambda: read_cluster(client, has_user=True), ELECTION_SECONDS)


def sizes(cluster: Cluster) -> dict[str, int]:
    """Return the bytes of each member's database, by its name."""
    return {member.label: member.status.db_size for member in cluster.members if member.status is not None}


def shown(cluster: Cluster) -> str:
    """Return what a diff shows."""
    labels = {member.member_id: member.label for member in cluster.members}
    lines = [f"{name}: {size} bytes\n" for name, size in sizes(cluster).items()]
    return "".join(lines + [f"alarm {a.kind} of {labels.get(a.member_id, a.member_id)}\n" for a in cluster.alarms])


def run(module: AnsibleModule) -> dict[str, Any]:
    """Read, plan, act, read again; return the result of the module. Raises EtcdError and Refusal."""
    params = module.params
    quota = params["quota_mebibytes"] * 1024**2
    connection = from_params(params)
    client = Client(connection)
    before = patiently(lambda: read_cluster(client, has_user=True), ELECTION_SECONDS)
    steps = plan(before, quota)
    result = {"changed": bool(steps), "steps": [step.text for step in steps]}
    if not steps or module.check_mode:
        return {**result, "sizes": sizes(before), "diff": {"before": shown(before), "after": shown(before)}}
    patient = Client(dataclasses.replace(connection, timeout=params["patience"]))
    patient.log_in()
    after = carry_out(patient, before, steps, quota)
    if left := plan(after, quota):
        raise EtcdError(params["endpoints"][0], f"still to do after all was done: {left[0].text}. Run again")
    return {**result, "sizes": sizes(after), "diff": {"before": shown(before), "after": shown(after)}}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=argument_spec()
        | {"quota_mebibytes": {"type": "int", "default": 2048}, "patience": {"type": "float", "default": 120}},
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except Refusal as error:
        module.fail_json(msg=f"etcd has no room yet: {error}.")
    except EtcdError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
