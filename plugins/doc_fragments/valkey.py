# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Documentation of the options that all Valkey modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragments holdfast.persistence.valkey, holdfast.persistence.valkey.server and holdfast.persistence.valkey.moves."""

    DOCUMENTATION = r"""
options:
  username:
    description: ACL user to log in as. The server's default user if not given.
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
  server_name:
    description:
      - Name that every server's certificate is checked for. The address of the connection if not given.
      - For servers whose addresses change, such as pods of Kubernetes.
    type: str
    version_added: 0.2.0
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

    MOVES = r"""
options:
  time_budget:
    description:
      - Seconds after which no further slots are moved. RV(remaining) tells how many are left, the next run continues.
      - V(0) is unlimited.
    type: float
    default: 0.0
  migration:
    description:
      - How slots are moved. V(atomic) lets the servers move whole ranges (Valkey 9.0 and later), V(keys) moves key by key.
      - V(auto) is atomic where both servers can, and key by key for what servers fail to move; with several databases
        (C(cluster-databases) above 1), which Valkey 9.1.2 can't move atomically without losing writes, or with
        O(keys_per_second) or O(max_p99), which only moving key by key can keep, it is key by key.
    type: str
    choices: [auto, keys, atomic]
    default: auto
  keys_per_second:
    description: Limit of keys moved in a second, for all nodes together. No limit if not given.
    type: int
  max_p99:
    description:
      - Milliseconds that the 99th percentile of a probe of the servers that give and take may last; the movers slow down
        to keep it.
      - If not given, slots move as fast as the servers allow.
    type: float
  check_room:
    description:
      - Whether to refuse moves to a server whose C(maxmemory) has no room for the keys, estimated by their number and the
        average size of a key of their server.
      - V(false) is for caches, whose servers may evict.
    type: bool
    default: true
  wait_timeout:
    description: Seconds in which all nodes have to agree after a change.
    type: float
    default: 120.0
"""
