#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that makes a backup of a whole Valkey cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: valkey_backup
short_description: Make a backup of a whole Valkey cluster, all shards at one moment
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Brings one file of each shard to this host over the servers' own replication protocol; it needs no access to their disks.
  - All files are the cluster at one moment. Writes are held on all primaries while the snapshots begin, for milliseconds,
    and for O(max_pause) at most whatever becomes of this run; reads continue. Whatever was acknowledged before is in the backup.
    That no shard went on meanwhile is read from the replication offsets.
  - The backup is the folder C(valkey/LABEL) in O(backup_dir), with a manifest of slot map, node ids, offsets, versions, sizes
    and SHA-256. Until it is complete the folder is called C(LABEL.partial); the next run removes what a killed one left.
  - A backup waits while slots are on their way, a primary is down, or a server saves or rewrites already.
options:
  nodes:
    description: Where members of the cluster listen, each as C(address:port). The first that answers is asked for the others.
    type: list
    elements: str
    required: true
  backup_dir:
    description: Folder of backups on this host.
    type: path
    required: true
  cluster:
    description: Name of the cluster, kept in the manifest.
    type: str
    required: true
  set:
    description: Id that backups of several engines made together share.
    type: str
    default: ""
  kind:
    description:
      - V(rdb) makes one RDB file a shard; the backup is the cluster when it began.
      - V(aof) makes an append-only folder a shard, an RDB file and the writes that followed while it was brought here; the
        backup is the cluster when it ended. Writes are held for one round trip only, no snapshot begins meanwhile.
    type: str
    choices: [rdb, aof]
    default: rdb
  source:
    description:
      - V(auto) takes files from replicas that have caught up, and from the primary of a shard that has none.
      - V(primary) and V(replica) take them from nowhere else.
    type: str
    choices: [auto, primary, replica]
    default: auto
  max_pause:
    description: Milliseconds after which servers let writes continue by themselves. An attempt that takes longer is made again.
    type: int
    default: 500
  wait_timeout:
    description: Seconds for the cluster to be ready.
    type: float
    default: 60
  samples:
    description: Keys of each shard whose digests are kept in the manifest, for drills to compare.
    type: int
    default: 8
  rate_limit:
    description: MiB a second that all shards together may take on the network and this host's disk; V(0) is no limit.
    type: float
    default: 0
extends_documentation_fragment:
  - holdfast.persistence.valkey
attributes:
  check_mode:
    description: Says whether the cluster can be backed up and who would give the files.
    support: full
  diff_mode:
    description: There is nothing to compare, each run makes a new backup.
    support: none
seealso:
  - module: holdfast.persistence.valkey_restore
"""

EXAMPLES = r"""
- name: Back the cluster up
  holdfast.persistence.valkey_backup:
    nodes: [198.18.0.11:7001, 198.18.0.12:7001, 198.18.0.13:7001]
    cluster: orders
    backup_dir: /var/backups/holdfast
    username: backup
    password: "{{ vault_valkey_backup }}"
    tls: true
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/valkey-client.pem

- name: Say which servers would give the files
  holdfast.persistence.valkey_backup:
    nodes: [198.18.0.11:7001, 198.18.0.12:7001, 198.18.0.13:7001]
    cluster: orders
    backup_dir: /var/backups/holdfast
  check_mode: true
"""

RETURN = r"""
label:
  description: Name of the backup, its start in UTC; empty in check mode.
  type: str
  returned: success
  sample: 20261126T041243Z
folder:
  description: Where it is.
  type: str
  returned: success
  sample: /var/backups/holdfast/valkey/20261126T041243Z
bytes:
  description: Size of its files.
  type: int
  returned: success
  sample: 51392
keys:
  description: Number of keys.
  type: int
  returned: success
  sample: 600
held_ms:
  description: Milliseconds for which writes were held.
  type: float
  returned: success
  sample: 12.4
skew_ms:
  description: Milliseconds between the first and the last snapshot, within the pause.
  type: float
  returned: success
  sample: 0.1
attempts:
  description: How often the moment was tried.
  type: int
  returned: success
  sample: 1
seconds:
  description: How long the whole backup took.
  type: float
  returned: success
  sample: 1.8
shards:
  description: Who gives the file of each shard.
  type: list
  elements: dict
  returned: success
  sample:
    - {slots: 0-6826 10923-12287, primary: "198.18.0.11:7001", source: "198.18.0.12:7002"}
    - {slots: 6827-10922, primary: "198.18.0.12:7001", source: "198.18.0.13:7002"}
    - {slots: 12288-16383, primary: "198.18.0.13:7001", source: "198.18.0.11:7002"}
  contains:
    slots:
      description: Its slots.
      type: str
    primary:
      description: Its primary.
      type: str
    source:
      description: The server that gives the file.
      type: str
"""

import contextlib
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import connection, ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import ValkeyError
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.nodes import endpoints
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving import backup
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.backup import Giver
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.backup_take import Taking, Wish, take

MEBIBYTE = 1 << 20

# For another backup or restore of Valkey on this host.
LOCK_SECONDS = 10.0

ARGUMENTS: dict[str, Any] = {
    "nodes": {"type": "list", "elements": "str", "required": True},
    "backup_dir": {"type": "path", "required": True},
    "cluster": {"type": "str", "required": True},
    "set": {"type": "str", "default": ""},
    "kind": {"type": "str", "choices": list(backup.KINDS), "default": backup.RDB},
    "source": {"type": "str", "choices": list(backup.SOURCES), "default": backup.AUTO},
    "max_pause": {"type": "int", "default": 500},
    "wait_timeout": {"type": "float", "default": 60.0},
    "samples": {"type": "int", "default": 8},
    "rate_limit": {"type": "float", "default": 0.0},
    **connection.argument_spec(),
}


def wish_from(params: dict[str, Any]) -> Wish:
    """Return what the parameters ask for. Raises Refusal for addresses that are none, Refusal for limits."""
    if params["max_pause"] < 1 or params["samples"] < 0 or params["rate_limit"] < 0:
        raise Refusal(
            f"max_pause {params['max_pause']}, samples {params['samples']}, rate_limit {params['rate_limit']}",
            "max_pause takes 1 or more, the others 0 or more",
        )
    return Wish(
        nodes=endpoints(params["nodes"]),
        cluster=params["cluster"],
        backup_dir=params["backup_dir"],
        set=params["set"],
        kind=params["kind"],
        source=params["source"],
        max_pause=params["max_pause"] / 1000,
        wait=params["wait_timeout"],
        samples=params["samples"],
        rate=params["rate_limit"] * MEBIBYTE or None,
    )


def planned(givers: tuple[Giver, ...]) -> list[dict[str, str]]:
    """Return who gives the file of each shard."""
    return [
        {"slots": ranges.text(giver.slots), "primary": giver.primary.endpoint, "source": giver.source.endpoint}
        for giver in givers
    ]


def run(module: AnsibleModule) -> dict[str, Any]:
    """Do what the parameters ask for. Returns the result. Raises Refusal, ValkeyError, OSError."""
    begin = time.monotonic()
    wish, options = wish_from(module.params), connection.options_from(module.params)
    if module.check_mode:
        with contextlib.closing(Taking(wish, options)) as taking:
            _view, givers = taking.plan()
        numbers = {"bytes": 0, "keys": 0, "held_ms": 0.0, "skew_ms": 0.0, "attempts": 0, "seconds": 0.0}
        return {"changed": True, "label": "", "folder": "", "shards": planned(givers), **numbers}
    with contexts.lock(backup.ENGINE, LOCK_SECONDS, "valkey_backup"):
        taken = take(wish, options)
    position = taken.manifest.position
    return {
        "changed": True,
        "label": taken.manifest.label,
        "folder": taken.path,
        "bytes": taken.manifest.bytes,
        "keys": taken.manifest.extras["keys"],
        "held_ms": position["held_ms"],
        "skew_ms": position["skew_ms"],
        "attempts": position["attempts"],
        "seconds": round(time.monotonic() - begin, 3),
        "shards": [{name: shard[name] for name in ("slots", "primary", "source")} for shard in position["shards"]],
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    if connection.library is None:
        module.fail_json(msg=missing_required_lib("valkey or redis"), exception=connection.LIBRARY_ERROR)
    try:
        result = run(module)
    except (Refusal, ValkeyError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{module.params['backup_dir']}: {error}. Nothing was kept of this backup")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
