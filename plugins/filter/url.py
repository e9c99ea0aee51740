# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Filter that makes the URL of a port of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: url
short_description: URL of a port of a host
version_added: 0.2.0
author: The holdfast.persistence authors (@holdfast)
description:
  - An IPv6 address is put in brackets.
positional: port, scheme
options:
  _input:
    description: Address or name of the host.
    type: str
    required: true
  port:
    description: Number of the port.
    type: int
    required: true
  scheme:
    description: Scheme of the URL.
    type: str
    default: https
seealso:
  - plugin: holdfast.persistence.uri_host
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show the URL of this host's Patroni
  ansible.builtin.debug:
    msg: "{{ cluster_address | holdfast.persistence.url(cluster_ports.patroni) }}"

- name: Show the URLs of all members of etcd
  ansible.builtin.debug:
    msg: "{{ groups['etcd'] | map('extract', cluster_addresses) | map('holdfast.persistence.url', cluster_ports.etcd_client) }}"
"""

RETURN = r"""
_value:
  description: The URL, without a path.
  type: str
  sample: https://[2001:db8::11]:8008
"""

from collections.abc import Callable

from ansible_collections.holdfast.persistence.plugins.plugin_utils.urls import url


class FilterModule:
    """The filters of this file, by name."""

    def filters(self) -> dict[str, Callable[..., str]]:
        return {"url": url}
