# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Filter that writes an address as a URL has it."""

from __future__ import annotations

DOCUMENTATION = r"""
name: uri_host
short_description: Address in the form that a URL needs
version_added: 0.2.0
author: The holdfast.persistence authors (@holdfast)
description:
  - An IPv6 address is put in brackets, anything else stays as it is.
options:
  _input:
    description: Address or name of a host.
    type: str
    required: true
seealso:
  - plugin: holdfast.persistence.url
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show where Valkey listens
  ansible.builtin.debug:
    msg: "{{ cluster_address | holdfast.persistence.uri_host }}:7001"
"""

RETURN = r"""
_value:
  description: The address, in brackets where it is IPv6.
  type: str
"""

from collections.abc import Callable

from ansible_collections.holdfast.persistence.plugins.plugin_utils.urls import uri_host


class FilterModule:
    """The filters of this file, by name."""

    def filters(self) -> dict[str, Callable[..., str]]:
        return {"uri_host": uri_host}
