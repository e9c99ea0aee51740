# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Filter that tells which networks lines of pg_hba.conf admit."""

from __future__ import annotations

DOCUMENTATION = r"""
name: hba_networks
short_description: The networks that lines of pg_hba.conf admit
version_added: 0.2.0
author: The holdfast.persistence authors (@holdfast)
description:
  - Returns the networks of all lines that are no C(local) ones and whose method is not C(reject), each once, in the order of the lines.
  - V(all) is all of IPv4 and IPv6. Loopback, host names, C(samehost) and C(samenet) name no network and are left out.
options:
  _input:
    description: Lines of pg_hba.conf.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Admit the networks that PostgreSQL admits
  ansible.builtin.debug:
    msg: "{{ ['hostssl orders app 192.0.2.0/24 scram-sha-256'] | holdfast.persistence.hba_networks }}"
"""

RETURN = r"""
_value:
  description: Networks with their prefix lengths.
  type: list
  elements: str
  sample: [192.0.2.0/24]
"""

import ipaddress
import shlex

_EVERYBODY = ("0.0.0.0/0", "::/0")


def hba_networks(lines):
    """Return the networks that lines admit."""
    return list(dict.fromkeys(str(network) for line in lines for network in networks(str(line))))


def networks(line):
    """Yield the networks of one line: TYPE DATABASE USER ADDRESS [MASK] METHOD [OPTIONS] (PostgreSQL's documentation, 20.1)."""
    words = shlex.split(line, comments=True)
    if len(words) < 5 or words[0] == "local":
        return
    address, following = words[3], words[4]
    if address == "all":
        found, method = [ipaddress.ip_network(network) for network in _EVERYBODY], following
    elif is_address(address) and is_address(following):
        found = [ipaddress.ip_network(f"{address}/{following}", strict=False)]
        method = words[5] if len(words) > 5 else ""
    elif is_address(address.partition("/")[0]):
        found, method = [ipaddress.ip_network(address, strict=False)], following
    else:
        return
    if method != "reject":
        yield from (network for network in found if not network.is_loopback)


def is_address(text):
    """Return whether a text is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class FilterModule:
    """The filter plugin."""

    def filters(self):
        """Return the filters by name."""
        return {"hba_networks": hba_networks}
