# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Filter that lists the Valkey instances of an inventory."""

from __future__ import annotations

DOCUMENTATION = r"""
name: valkey_nodes
short_description: Every Valkey instance of the given hosts
version_added: 0.1.0
author: The holdfast.persistence authors (@holdfast)
description:
  - Builds the option O(holdfast.persistence.valkey_cluster#module:nodes) of M(holdfast.persistence.valkey_cluster)
    out of inventory variables alone.
  - The instances of a host are its variable C(valkey_instances). Its address is C(cluster_address), else
    C(ansible_host), else its name; its failure domain is C(cluster_zone), else C(zone).
positional: hostvars, default
options:
  _input:
    description: Names of hosts.
    type: list
    elements: str
    required: true
  hostvars:
    description: The variable C(hostvars).
    type: dict
    required: true
  default:
    description: Instances of a host that has no variable C(valkey_instances).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the instances
  ansible.builtin.debug:
    msg: "{{ groups['valkey'] | holdfast.persistence.valkey_nodes(hostvars, [{'port': 7001}, {'port': 7002}]) }}"
"""

RETURN = r"""
_value:
  description:
    - One dict an instance, in the order given, with C(address), C(port), C(host), C(zone) and C(weight), and with
      C(role), C(slots) and C(state) where the instance has them.
  type: list
  elements: dict
"""


# What an instance may say of itself that the module takes as it is.
PASSED_ON = ("role", "slots", "state")


def valkey_nodes(hosts, hostvars, default):
    """List the Valkey instances of hosts.

    Parameters: hosts, names; hostvars, a mapping of name to variables; default, instances of a host that declares none.
    Returns a list of dicts with address, port, host, zone (empty if none) and weight (1 if none),
    and role, slots and state where declared.
    """
    return [
        _node(host, hostvars[host], instance)
        for host in hosts
        for instance in hostvars[host].get("valkey_instances", default)
    ]


def _node(host, variables, instance):
    node = {
        "address": variables.get("cluster_address") or variables.get("ansible_host") or host,
        "port": int(instance["port"]),
        "host": host,
        "zone": variables.get("cluster_zone") or variables.get("zone") or "",
        "weight": instance.get("weight", 1),
    }
    return {**node, **{name: instance[name] for name in PASSED_ON if name in instance}}


class FilterModule:
    """The filters of this file, by name."""

    def filters(self):
        return {"valkey_nodes": valkey_nodes}
