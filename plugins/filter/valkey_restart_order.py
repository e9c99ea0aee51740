# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Filter that orders the steps of a rolling restart."""

from __future__ import annotations

DOCUMENTATION = r"""
name: valkey_restart_order
short_description: Steps of a rolling restart of Valkey instances
version_added: 0.2.0
author: The holdfast.persistence authors (@holdfast)
description:
  - Orders the instances that wait for a restart shard by shard, in each shard replicas first and the primary last.
positional: waiting
options:
  _input:
    description: The result C(nodes) of M(holdfast.persistence.valkey_cluster).
    type: list
    elements: dict
    required: true
  waiting:
    description: By host the result C(instances) of M(holdfast.persistence.valkey_config).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the order
  ansible.builtin.debug:
    msg: "{{ cluster.nodes | holdfast.persistence.valkey_restart_order({'node1': configured.instances}) }}"
"""

RETURN = r"""
_value:
  description:
    - One dict a step with C(name), C(host), C(port), C(why) (a list) and C(hand_over), whether a replica has to take over
      before the restart.
  type: list
  elements: dict
"""

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.rolling import order


def valkey_restart_order(nodes, waiting):
    """Order restarts.

    Parameters: nodes, result of valkey_cluster; waiting, by host the result `instances` of valkey_config.
    Returns a list of steps.
    """
    reasons = {
        f"{host}:{instance['port']}": instance["restart"]
        for host, instances in waiting.items()
        for instance in instances
    }
    return order(nodes, reasons)


class FilterModule:
    """The filters of this file, by name."""

    def filters(self):
        return {"valkey_restart_order": valkey_restart_order}
