# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Filter that orders the steps of a rolling update of PostgreSQL."""

from __future__ import annotations

DOCUMENTATION = r"""
name: patroni_restart_order
short_description: Steps of a rolling update of PostgreSQL
version_added: 0.2.0
author: The holdfast.persistence authors (@holdfast)
description:
  - Orders the members that are to be upgraded or restarted, replicas first and the leader last.
positional: status
options:
  _input:
    description: The result C(members) of M(holdfast.persistence.patroni_cluster_info).
    type: list
    elements: dict
    required: true
  status:
    description: By member the result of M(holdfast.persistence.package_status).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the order
  ansible.builtin.debug:
    msg: "{{ cluster.members | holdfast.persistence.patroni_restart_order({'node1': node1_status}) }}"
"""

RETURN = r"""
_value:
  description:
    - One dict a step with C(name), C(why) (a list), C(upgrade) (packages), C(restart) (V(patroni) with PostgreSQL, or only
      V(postgresql)) and C(leads).
  type: list
  elements: dict
"""

from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.rolling import order


def patroni_restart_order(members, status):
    """Order steps.

    Parameters: members, result `members` of patroni_cluster_info; status, by member the result of package_status.
    Returns a list of steps.
    """
    return order(members, status)


class FilterModule:
    """The filters of this file, by name."""

    def filters(self):
        return {"patroni_restart_order": patroni_restart_order}
