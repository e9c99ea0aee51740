# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Filter that maps host names to the addresses their peers use."""

from __future__ import annotations

DOCUMENTATION = r"""
name: addresses
short_description: Address of each host, as its peers reach it
version_added: 0.1.0
author: The holdfast.persistence authors (@holdfast)
description:
  - Role defaults are not part of C(hostvars), so a host cannot read another host's O(_input) default.
    This filter repeats the rule in one place.
  - For each host it takes C(cluster_address), else C(ansible_host), else the host's name.
positional: hostvars
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
"""

EXAMPLES = r"""
- name: Show the addresses of the etcd members
  ansible.builtin.debug:
    msg: "{{ groups['etcd'] | holdfast.persistence.addresses(hostvars) }}"
"""

RETURN = r"""
_value:
  description: Addresses by host name, in the order given.
  type: dict
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any


def addresses(hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Map each host name to the address its peers use.

    Parameters: hosts, names; hostvars, a mapping of name to variables.
    Returns a dict in the order of hosts.
    """
    return {host: _address(host, hostvars[host]) for host in hosts}


def _address(host: str, variables: Mapping[str, Any]) -> str:
    return variables.get("cluster_address") or variables.get("ansible_host") or host


class FilterModule:
    """The filters of this file, by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"addresses": addresses}
