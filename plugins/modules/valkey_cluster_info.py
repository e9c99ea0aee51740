#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that reads the state of a Valkey cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: valkey_cluster_info
short_description: Read members, roles, slots and replication of a Valkey cluster
version_added: 0.1.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Asks one server for the members of its cluster and then every member for its own state.
  - Members that don't answer are part of the result, with the reason; only the first server has to answer.
extends_documentation_fragment:
  - holdfast.persistence.valkey
  - holdfast.persistence.valkey.server
attributes:
  check_mode:
    description: Does the same, it only reads.
    support: full
  diff_mode:
    description: There is nothing to show, it only reads.
    support: none
seealso:
  - module: holdfast.persistence.valkey_cluster
"""

EXAMPLES = r"""
- name: Read the cluster
  holdfast.persistence.valkey_cluster_info:
    host: 198.18.0.11
    port: 7001
    username: admin
    password: "{{ cluster_valkey_admin_password }}"
    tls: true
    ca_cert: /etc/holdfast/tls/ca.crt
    client_cert: /etc/holdfast/tls/valkey.pem
  register: valkey
  run_once: true

- name: Read a cluster without TLS
  holdfast.persistence.valkey_cluster_info:
    host: 127.0.0.1
    port: 7001
  register: valkey
"""

RETURN = r"""
state:
  description: What the server says of the cluster, C(ok) or C(fail).
  returned: always
  type: str
  sample: ok
epoch:
  description: Current epoch of the cluster.
  returned: always
  type: int
  sample: 6
slots_assigned:
  description: Number of slots that have an owner.
  returned: always
  type: int
  sample: 16384
slots_ok:
  description: Number of slots whose owner is not seen as down.
  returned: always
  type: int
  sample: 16384
primaries:
  description: Number of primaries that own slots.
  returned: always
  type: int
  sample: 3
replicas:
  description: Number of replicas.
  returned: always
  type: int
  sample: 3
agree:
  description: Whether all members that answered see the same owners, roles and epochs.
  returned: always
  type: bool
  sample: true
keys:
  description: Number of keys on all primaries that answered.
  returned: always
  type: int
  sample: 600
nodes:
  description: Members, primaries by their first slot, each followed by its replicas.
  returned: always
  type: list
  elements: dict
  sample:
    - id: 5b33d362e6f8cb77a6ef8fff63571c35b82bd527
      address: 198.18.0.11
      port: 7001
      hostname: ""
      role: primary
      primary: ""
      slots: 0-5461
      slot_count: 5462
      epoch: 1
      flags: []
      error: ""
      open_slots: ""
      version: 8.1.1
      link_up: true
      offset: 27873
      lag_bytes: null
      keys: 208
      used_memory: 3257672
      max_memory: 67108864
  contains:
    id:
      description: Node id.
      type: str
    address:
      description: Address that the cluster knows it by.
      type: str
    port:
      description: Client port.
      type: int
    hostname:
      description: Announced name, empty without.
      type: str
    role:
      description: C(primary) or C(replica).
      type: str
    primary:
      description: Node id of its primary, empty for a primary.
      type: str
    slots:
      description: Ranges of slots that it owns.
      type: str
    slot_count:
      description: Number of slots that it owns.
      type: int
    open_slots:
      description: Slots that are on their way to or from it.
      type: str
    epoch:
      description: Configuration epoch.
      type: int
    flags:
      description: Flags as the first server sees them.
      type: list
      elements: str
    error:
      description: Why it did not answer, empty when it did.
      type: str
    version:
      description: Version of the server. Empty, like all that follows, when it did not answer.
      type: str
    link_up:
      description: Whether the link to its primary is up, true for a primary.
      type: bool
    offset:
      description: Replication offset in bytes.
      type: int
    lag_bytes:
      description: Bytes that a replica is behind its primary, null when one of them did not answer.
      type: int
    keys:
      description: Number of keys.
      type: int
    used_memory:
      description: Bytes of memory in use.
      type: int
    max_memory:
      description: Limit of memory for data in bytes, 0 without.
      type: int
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import connection, ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.cluster import Cluster
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Endpoint,
    Fleet,
    ValkeyError,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.shape import State
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import (
    Node,
    View,
    parse_info,
    parse_nodes,
)


def ordered(view: View) -> list[Node]:
    """Return members, primaries by first slot, each followed by its replicas; then the rest."""
    found = []
    for primary in sorted((n for n in view.members if n.is_primary), key=lambda n: (not n.slots, n.slots, n.id)):
        found += [primary, *view.replicas_of(primary.id)]
    return found + [node for node in view.members if node not in found]


def described(node: Node, state: State | None, error: str, states: Mapping[str, State]) -> dict[str, Any]:
    """Return a member for the result: state, what it says itself; error, why it says nothing."""
    row = {
        "id": node.id,
        "address": node.address,
        "port": node.port,
        "hostname": node.hostname,
        "role": "replica" if node.is_replica else "primary",
        "primary": node.primary_id or "",
        "slots": ranges.text(node.slots),
        "slot_count": ranges.count(node.slots),
        "epoch": node.epoch,
        "flags": sorted(node.flags - {"myself", "master", "slave"}),
        "error": error,
    }
    if state is None:
        empty = dict.fromkeys(("link_up", "offset", "lag_bytes", "keys", "used_memory", "max_memory"))
        return {**row, "open_slots": "", "version": "", **empty}
    server = state.server
    primary = states.get(node.primary_id or "")
    return {
        **row,
        "open_slots": ranges.text(ranges.to_ranges(mark.slot for mark in state.view.myself.marks)),
        "version": server.version_text,
        "link_up": server.link_up,
        "offset": server.offset,
        "lag_bytes": max(0, primary.server.offset - server.offset) if primary else None,
        "keys": server.keys,
        "used_memory": server.used_memory,
        "max_memory": server.max_memory,
    }


def look(module: AnsibleModule) -> dict[str, Any]:
    """Ask the servers and return the result. Raises ValkeyError, Refusal."""
    seed = Endpoint(module.params["host"], module.params["port"])
    with Fleet(connection.options_from(module.params)) as fleet:
        info = parse_info(fleet.client(seed).call("CLUSTER", "INFO"))
        view = parse_nodes(fleet.client(seed).call("CLUSTER", "NODES"))
        where = {n.id: seed if n.myself else Endpoint(n.address, n.port) for n in view.members if n.has_address}
        errors = {endpoint: error.problem for endpoint, error in fleet.connect(where.values()).items()}
        states = Cluster(fleet, [e for e in where.values() if e not in errors]).observe()
    by_id = {state.id: state for state in states.values()}
    signatures = {state.view.signature for state in states.values()}
    rows = [
        described(n, by_id.get(n.id), errors.get(where.get(n.id, seed), "" if n.id in by_id else "no address"), by_id)
        for n in ordered(view)
    ]
    return {
        "state": info["cluster_state"],
        "epoch": int(info["cluster_current_epoch"]),
        "slots_assigned": int(info["cluster_slots_assigned"]),
        "slots_ok": int(info["cluster_slots_ok"]),
        "primaries": sum(row["role"] == "primary" and row["slot_count"] > 0 for row in rows),
        "replicas": sum(row["role"] == "replica" for row in rows),
        "agree": len(signatures) == 1,
        "keys": sum(row["keys"] or 0 for row in rows if row["role"] == "primary"),
        "nodes": rows,
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={**connection.server_argument_spec(), **connection.argument_spec()}, supports_check_mode=True
    )
    if connection.library is None:
        module.fail_json(msg=missing_required_lib("valkey or redis"), exception=connection.LIBRARY_ERROR)
    try:
        result = look(module)
    except (ValkeyError, Refusal) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
