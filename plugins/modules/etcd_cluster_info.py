#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that tells what an etcd cluster is like and what is wrong with it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_cluster_info
short_description: Read members, leader and alarms of an etcd cluster, and check them
version_added: 0.1.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Asks one member for the list of all and every member for its status, all at once.
  - Checks quorum and its margin, leader, alarms, versions, size, authentication, and members that are down, learning or
    behind.
  - Runs on a host that reaches the members, for one host of the cluster.
options:
  quota_mebibytes:
    description: Limit of the database's size that the members run with, in MiB.
    type: int
    default: 2048
  declared_members:
    description: Names that the members should have. Not judged if not given.
    type: list
    elements: str
    default: []
  fail_on:
    description: Fail if there is a finding of this severity or a higher one.
    type: str
    choices: [none, warning, critical]
    default: critical
  patience:
    description: Seconds to wait for a cluster that has no leader at the moment.
    type: float
    default: 0
extends_documentation_fragment:
  - holdfast.persistence.etcd
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: Check etcd
  holdfast.persistence.etcd_cluster_info:
    endpoints: [https://192.0.2.11:2379, https://192.0.2.12:2379, https://192.0.2.13:2379]
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/etcd-client.pem
    username: root
    password: "{{ vault_etcd_root_password }}"
    fail_on: warning
  run_once: true

- name: Wait until all declared members vote
  holdfast.persistence.etcd_cluster_info:
    endpoints: [https://192.0.2.11:2379, https://192.0.2.12:2379, https://192.0.2.13:2379]
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/etcd-client.pem
    username: root
    password: "{{ vault_etcd_root_password }}"
    declared_members: [node1, node2, node3]
    patience: 30
  run_once: true
"""

RETURN = r"""
cluster:
  description:
    - C(leader) (name), C(quorum), C(margin) (voters that may still be lost), C(auth_enabled), C(alarms), and C(members)
      with C(name), C(member_id), C(peer_urls), C(client_urls), C(is_learner), C(error) and C(status).
    - C(status) has C(version), C(leader) (id), C(raft_term), C(raft_index), C(applied_index), C(revision), C(db_size)
      and C(db_size_in_use) in bytes, C(errors); it is null where a member did not answer.
  type: dict
  returned: where a member answers
  sample:
    leader: node1
    quorum: 2
    margin: 1
    auth_enabled: true
    alarms: []
    members:
      - name: node1
        member_id: 8e9e05c52164694d
        peer_urls: ["https://192.0.2.11:2380"]
        client_urls: ["https://192.0.2.11:2379"]
        is_learner: false
        error: ""
        status:
          version: 3.5.16
          leader: 8e9e05c52164694d
          raft_term: 2
          raft_index: 8
          applied_index: 8
          revision: 1
          db_size: 20480
          db_size_in_use: 16384
          errors: []
findings:
  description: Every broken rule with C(rule), C(severity), C(where), C(found), C(allowed), C(remedy).
  type: list
  elements: dict
  returned: always
  sample:
    - rule: etcd_auth_off
      severity: warning
      where: etcd
      found: authentication is off
      allowed: "on"
      remedy: Run site.yml, which declares the users and turns it on.
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.client import (
    Client,
    EtcdError,
    argument_spec,
    from_params,
    patiently,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.cluster import judge, to_dict
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.observe import read_cluster
from ansible_collections.holdfast.persistence.plugins.module_utils.findings import (
    Finding,
    at_least,
    by_severity,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.findings import to_dict as finding_to_dict


def no_answer(error: EtcdError) -> Finding:
    """Return the finding of a cluster that gives no answer at all."""
    return Finding(
        "etcd_quorum",
        "critical",
        "etcd",
        str(error),
        "an answer",
        "Look at the unit etcd.service on the members: without a quorum none of them answers.",
    )


def run(module: AnsibleModule) -> dict[str, Any]:
    """Read and judge; return the result of the module."""
    params = module.params
    try:
        client = Client(from_params(params))
        cluster = patiently(lambda: read_cluster(client, bool(params["username"])), params["patience"])
    except EtcdError as error:
        return {"changed": False, "findings": [no_answer(error)]}
    findings = by_severity(judge(cluster, params["quota_mebibytes"] * 1024**2, params["declared_members"]))
    return {"changed": False, "cluster": to_dict(cluster), "findings": findings}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=argument_spec()
        | {
            "quota_mebibytes": {"type": "int", "default": 2048},
            "declared_members": {"type": "list", "elements": "str", "default": []},
            "fail_on": {"type": "str", "choices": ["none", "warning", "critical"], "default": "critical"},
            "patience": {"type": "float", "default": 0},
        },
        supports_check_mode=True,
    )
    result = run(module)
    broken = at_least(result["findings"], module.params["fail_on"])
    result["findings"] = [finding_to_dict(finding) for finding in result["findings"]]
    if broken:
        module.fail_json(msg="\n".join(str(finding) for finding in broken), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
