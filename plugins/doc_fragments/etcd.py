# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Options of every module that talks to etcd."""

from __future__ import annotations


class ModuleDocFragment:
    """The fragment holdfast.persistence.etcd."""

    DOCUMENTATION = r"""
options:
  endpoints:
    description: URLs of the members, for example V(https://192.0.2.11:2379). The first that answers is asked.
    type: list
    elements: str
    required: true
  username:
    description: Name of the user. No user logs in if not given.
    type: str
  password:
    description: Password of O(username).
    type: str
  ca_cert:
    description: File with the certificates that the members' certificates must lead to.
    type: path
    required: true
  client_cert:
    description:
      - File with private key and certificate of the client.
      - Where authentication is on, its subject must not have a common name, or etcd's JSON gateway refuses it.
    type: path
    required: true
  timeout:
    description: Seconds for one request to one member.
    type: float
    default: 5
"""
