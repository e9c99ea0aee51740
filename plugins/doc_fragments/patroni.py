# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Documentation that the modules for Patroni share."""

from __future__ import annotations


class ModuleDocFragment:
    """The connection options."""

    DOCUMENTATION = r"""
options:
  url:
    description: Address of a member's REST API, for example V(https://192.0.2.11:8008). Any member of the cluster knows all of it.
    type: str
    required: true
  ca_cert:
    description: File with the CA certificate that the member's certificate is verified by.
    type: path
    required: true
  client_cert:
    description: PEM file with private key and certificate to show to the member.
    type: path
    required: true
  timeout:
    description: How long to wait for each answer, in seconds.
    type: float
    default: 5.0
"""
