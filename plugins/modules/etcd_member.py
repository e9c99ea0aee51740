#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that lets a member join, vote in or leave an etcd cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_member
short_description: Add, promote or remove a member of an etcd cluster
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - A member joins as a learner, which does not count for the quorum, and is promoted once it has caught up.
  - A member whose host lost its data is removed and joins anew, as it may no longer vote under its old identity.
  - It refuses a removal after which the cluster could not decide, or not lose O(spare) more voters.
options:
  name:
    description: Name of the member.
    type: str
    required: true
  peer_url:
    description: URL under which the other members reach it, for example V(https://192.0.2.14:2380).
    type: str
    required: true
  state:
    description:
      - With V(joined) the cluster knows the member. Where no member of a cluster answers there is nothing to join, see RV(cluster_found).
      - With V(voting) it counts for the quorum. Its server has to run; the promotion waits until it has caught up.
      - With V(absent) the cluster does not know it. Its server ends; data stays on its host and is of no more use.
    type: str
    choices: [joined, voting, absent]
    required: true
  data_dir:
    description:
      - The member's data folder on the host that runs this module, for O(state=joined).
      - Without it a member that the cluster knows counts as one that has its data.
    type: path
  spare:
    description: With O(state=absent), how many voters more may be lost afterwards without stopping the cluster.
    type: int
    default: 1
  patience:
    description: Seconds to wait while the cluster has no leader, and until a learner has caught up.
    type: float
    default: 60
extends_documentation_fragment:
  - holdfast.persistence.etcd
attributes:
  check_mode:
    description: Says what would be done, and refuses what would be refused.
    support: full
  diff_mode:
    description: Shows the members before and after.
    support: full
seealso:
  - module: holdfast.persistence.etcd_cluster_info
"""

EXAMPLES = r"""
- name: Let this host join
  holdfast.persistence.etcd_member:
    name: node4
    peer_url: https://192.0.2.14:2380
    state: joined
    data_dir: /var/lib/etcd/example
    endpoints: [https://192.0.2.11:2379, https://192.0.2.12:2379, https://192.0.2.13:2379]
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/etcd-client.pem
    username: root
    password: "{{ vault_etcd_root_password }}"
  register: joined

- name: Take a lost member out
  holdfast.persistence.etcd_member:
    name: node3
    peer_url: https://192.0.2.13:2380
    state: absent
    endpoints: [https://192.0.2.11:2379, https://192.0.2.12:2379, https://192.0.2.13:2379]
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/etcd-client.pem
    username: root
    password: "{{ vault_etcd_root_password }}"
  run_once: true
"""

RETURN = r"""
cluster_found:
  description: Whether a member of a cluster answered.
  type: bool
  returned: success
  sample: true
steps:
  description: What was done, in its order; in check mode what would be done.
  type: list
  elements: str
  returned: success
  sample: ["add node4 (https://192.0.2.14:2380) as a learner"]
voting:
  description: Whether the member counts for the quorum.
  type: bool
  returned: success
  sample: false
starts_as:
  description:
    - What C(ETCD_INITIAL_CLUSTER) has to be for the member's first start in the cluster, with C(ETCD_INITIAL_CLUSTER_STATE=existing).
    - Empty where its server needs none, as it has data, or belongs to a cluster that is just made.
  type: str
  returned: success
  sample: "node1=https://192.0.2.11:2380,node2=https://192.0.2.12:2380,node3=https://192.0.2.13:2380,node4=https://192.0.2.14:2380"
"""

import os
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.client import (
    PAUSE_SECONDS,
    Client,
    EtcdError,
    UnreachableError,
    argument_spec,
    from_params,
    patiently,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.cluster import Cluster
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.membership import (
    Step,
    Wish,
    find,
    has_started,
    initial_cluster,
    plan,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.observe import read_cluster
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

# api/v3rpc/rpctypes/error.go: ErrGRPCMemberNotLearner comes where an earlier request did its work and its answer was lost.
NOT_CAUGHT_UP = "can only promote a learner member which is in sync with leader"
DONE_ALREADY = ("can only promote a learner member", "member not found")


def has_data(folder: str | None) -> bool | None:
    """Return whether the folder has data of a member; None where no folder was given."""
    return None if folder is None else os.path.isdir(os.path.join(folder, "member", "wal"))


def request(step: Step, peer_url: str) -> tuple[str, dict[str, Any]]:
    """Return path and body of a step."""
    if step.action == "add":
        return "/v3/cluster/member/add", {"peerURLs": [peer_url], "isLearner": True}
    return f"/v3/cluster/member/{step.action}", {"ID": step.member_id}


def carry_out(client: Client, step: Step, wish: Wish, patience: float) -> None:
    """Do one step, a promotion as soon as the learner has caught up. Raises EtcdError."""
    path, body = request(step, wish.peer_url)
    deadline = time.monotonic() + patience
    while True:
        try:
            patiently(lambda: client.ask(path, body), max(0.0, deadline - time.monotonic()))
            return
        except EtcdError as error:
            if NOT_CAUGHT_UP in error.message:
                if time.monotonic() >= deadline:
                    raise
            elif step.action != "add" and any(message in error.message for message in DONE_ALREADY):
                return
            else:
                raise
        time.sleep(PAUSE_SECONDS)


def shown(cluster: Cluster) -> str:
    """Return what a diff shows."""
    return "".join(
        f"{member.label} ({'learner' if member.is_learner else 'voter'})\n"
        for member in sorted(cluster.members, key=lambda member: member.label)
    )


def expected(cluster: Cluster, wish: Wish, steps: tuple[Step, ...]) -> str:
    """Return what a diff shows after the steps."""
    lines = dict(zip((member.member_id for member in cluster.members), shown_each(cluster), strict=True))
    for step in steps:
        if step.action == "remove":
            lines.pop(step.member_id)
        elif step.action == "promote":
            lines[step.member_id] = f"{wish.name} (voter)\n"
        else:
            lines[""] = f"{wish.name} (learner)\n"
    return "".join(sorted(lines.values()))


def shown_each(cluster: Cluster) -> list[str]:
    """Return the line of each member, in the cluster's order."""
    return [f"{member.label} ({'learner' if member.is_learner else 'voter'})\n" for member in cluster.members]


def result(cluster: Cluster, wish: Wish, steps: tuple[Step, ...]) -> dict[str, Any]:
    """Return what the module returns of the cluster as it is now."""
    member = find(cluster, wish)
    # A voter without data that never ran founds the cluster with the others, as its own settings say.
    new = wish.has_data is False or (wish.has_data is None and member is not None and not has_started(member))
    joins = wish.state == "joined" and member is not None and member.is_learner and new
    return {
        "changed": bool(steps),
        "cluster_found": True,
        "steps": [step.text for step in steps],
        "voting": member is not None and not member.is_learner,
        "starts_as": initial_cluster(cluster, wish) if joins else "",
    }


def run(module: AnsibleModule) -> dict[str, Any]:
    """Read, plan, act, read again; return the result of the module. Raises EtcdError and Refusal."""
    params = module.params
    wish = Wish(
        params["name"], params["peer_url"].rstrip("/"), params["state"], has_data(params["data_dir"]), params["spare"]
    )
    try:
        client = Client(from_params(params))
        before = patiently(
            lambda: read_cluster(client, bool(params["username"])), 0 if wish.state == "joined" else params["patience"]
        )
    except UnreachableError:
        if wish.state != "joined":
            raise
        return {"changed": False, "cluster_found": False, "steps": [], "voting": False, "starts_as": ""}
    steps = plan(before, wish)
    if not steps or module.check_mode:
        diff = {"before": shown(before), "after": expected(before, wish, steps)}
        return {**result(before, wish, steps), "diff": diff}
    for step in steps:
        carry_out(client, step, wish, params["patience"])
    after = patiently(lambda: read_cluster(client, bool(params["username"])), params["patience"])
    if left := plan(after, wish):
        raise EtcdError(params["endpoints"][0], f"still to do after all was done: {left[0].text}. Run again")
    return {**result(after, wish, steps), "diff": {"before": shown(before), "after": shown(after)}}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=argument_spec()
        | {
            "name": {"type": "str", "required": True},
            "peer_url": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["joined", "voting", "absent"], "required": True},
            "data_dir": {"type": "path"},
            "spare": {"type": "int", "default": 1},
            "patience": {"type": "float", "default": 60},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except Refusal as error:
        module.fail_json(msg=f"etcd's members were not changed: {error}.")
    except EtcdError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
