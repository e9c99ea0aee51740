# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
"""Documentation of the options that all Valkey modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragments holdfast.persistence.valkey and holdfast.persistence.valkey.server."""

    DOCUMENTATION = r"""
options:
  username:
    description: ACL user to log in as. Without it the server's default user is meant.
    type: str
  password:
    description: Password of the user.
    type: str
  tls:
    description: Whether the servers' client ports speak TLS. Certificates and names are always verified.
    type: bool
    default: false
  ca_cert:
    description: PEM file of the certificate authorities that servers' certificates are checked against.
    type: path
  client_cert:
    description: PEM file of the client's certificate, for servers that demand one. It may hold the private key too.
    type: path
  client_key:
    description: PEM file of the client's private key, unless O(client_cert) holds it.
    type: path
  timeout:
    description:
      - Seconds to wait for a connection and for each reply.
      - A server stands still for up to 5 s while it begins to follow a primary that does not answer, so less than that takes a
        busy server for a dead one.
    type: float
    default: 10.0
requirements:
  - Python library valkey (C(python3-valkey)) or redis (C(python3-redis)), on the host that runs the module
notes:
  - The module runs on a host that reaches the servers' client ports, usually one of them, once per cluster.
"""

    SERVER = r"""
options:
  host:
    description: Address or name of the server.
    type: str
    default: 127.0.0.1
  port:
    description: Client port of the server, its TLS port with O(tls).
    type: int
    default: 6379
"""
