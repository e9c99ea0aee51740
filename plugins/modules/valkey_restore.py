#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that restores a Valkey cluster from a backup."""

from __future__ import annotations

DOCUMENTATION = r"""
module: valkey_restore
short_description: Restore a Valkey cluster of any number of shards from a backup
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Restores a backup of M(holdfast.persistence.valkey_backup) into a running cluster. The number of shards need not be that
    of the backup; each key goes to the owner of its slot.
  - The files are loaded into servers of their own on this host, reachable through a Unix socket by root only, and these send
    the keys, with the time they have left. Functions come along. Users and settings do not, they are the inventory's.
  - At the end the number of keys is compared, and a random sample of keys is compared by content and expiry.
  - It may be interrupted or killed at any point. Its progress is kept beside the backups; the next run continues from there, or goes back.
  - Before anything changes the backup's files are read and compared with their SHA-256, versions, memory, and that all slots
    are there.
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
    description: Name of the cluster, for the backup of what is there.
    type: str
    required: true
  label:
    description: The backup. By default the one whose restore is unfinished, else the newest good one.
    type: str
    default: ""
  action:
    description:
      - V(restore) restores, or continues.
      - V(back) undoes what the last restore did. The cluster is emptied; where it was not empty before, what was there is
        restored from the backup that was made of it.
    type: str
    choices: [restore, back]
    default: restore
  existing:
    description:
      - What becomes of keys that the cluster holds. V(refuse) wants an empty one.
      - V(replace) keeps keys that the backup does not have, V(flush) deletes all keys first. A backup of what is there is made
        before either.
    type: str
    choices: [refuse, replace, flush]
    default: refuse
  compare:
    description: Keys of each shard that are compared with the file by content and expiry; V(0) compares all.
    type: int
    default: 1000
  parallel:
    description: Shards that are restored side by side, fewer where the host's memory does not allow it.
    type: int
    default: 2
  time_budget:
    description: Seconds after which the module returns with RV(remaining), to be called again. By default it ends when all is there.
    type: float
  server_program:
    description: The program of the servers that load the files.
    type: str
    default: valkey-server
extends_documentation_fragment:
  - holdfast.persistence.valkey
attributes:
  check_mode:
    description: Says which backup would be restored, and refuses what could not be.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
seealso:
  - module: holdfast.persistence.valkey_backup
"""

EXAMPLES = r"""
- name: Restore the newest backup into an empty cluster
  holdfast.persistence.valkey_restore:
    nodes: [198.18.0.11:7001, 198.18.0.12:7001, 198.18.0.13:7001]
    cluster: orders
    backup_dir: /var/lib/holdfast/backup
    username: admin
    password: "{{ cluster_valkey_admin_password }}"
    tls: true
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/backup.pem
    time_budget: 30
  register: restored
  until: restored is failed or restored.remaining == 0
  retries: 1000
  delay: 0

- name: Say what a restore of a certain backup would do
  holdfast.persistence.valkey_restore:
    nodes: [198.18.0.11:7001, 198.18.0.12:7001, 198.18.0.13:7001]
    cluster: orders
    backup_dir: /var/lib/holdfast/backup
    label: 20261126T041243Z
  check_mode: true
"""

RETURN = r"""
label:
  description: The backup.
  type: str
  returned: success
  sample: 20261126T041243Z
keys:
  description: Keys written so far, by this run and those before it.
  type: int
  returned: success
  sample: 600
keys_total:
  description: Keys that the backup had when it was made, those that have come to their end meanwhile included.
  type: int
  returned: success
  sample: 600
remaining:
  description: Keys that are left, at least V(1) until all is restored and compared, then V(0).
  type: int
  returned: success
  sample: 0
compared:
  description: Keys that were compared by content and expiry.
  type: int
  returned: success
  sample: 583
before:
  description: The backup of what the cluster held, if it held anything.
  type: str
  returned: success
  sample: 20261126T041301Z
seconds:
  description: Time taken so far.
  type: float
  returned: success
  sample: 2.3
keys_per_second:
  description: Rate so far.
  type: float
  returned: success
  sample: 4120.5
"""

import contextlib
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.runner import STORE
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import connection
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import ValkeyError
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.nodes import endpoints
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving import backup, restore, restore_source
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.restore import State
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.restore_run import Restoring, Wish

# For another backup or restore of Valkey on this host.
LOCK_SECONDS = 10.0

ARGUMENTS: dict[str, Any] = {
    "nodes": {"type": "list", "elements": "str", "required": True},
    "backup_dir": {"type": "path", "required": True},
    "cluster": {"type": "str", "required": True},
    "label": {"type": "str", "default": ""},
    "action": {"type": "str", "choices": ["restore", "back"], "default": "restore"},
    "existing": {"type": "str", "choices": list(restore.EXISTING), "default": restore.REFUSE},
    "compare": {"type": "int", "default": 1000},
    "parallel": {"type": "int", "default": 2},
    "time_budget": {"type": "float"},
    "server_program": {"type": "str", "default": restore_source.SERVER},
    **connection.argument_spec(),
}


def wish_from(params: dict[str, Any], label: str) -> Wish:
    """Return what the parameters ask for. Raises Refusal for addresses that are none, Refusal for limits."""
    if params["compare"] < 0 or params["parallel"] < 1:
        raise Refusal(
            f"compare {params['compare']}, parallel {params['parallel']}", "compare takes 0 or more, parallel 1 or more"
        )
    return Wish(
        nodes=endpoints(params["nodes"]),
        cluster=params["cluster"],
        backup_dir=params["backup_dir"],
        label=label,
        existing=params["existing"],
        compare=params["compare"],
        parallel=params["parallel"],
        budget=params["time_budget"],
        program=params["server_program"],
    )


def told(state: State, total: int) -> dict[str, Any]:
    """Return the result."""
    done = state.reached == restore.DONE
    ended = sum(part.expired for part in state.parts.values())
    return {
        "label": state.label,
        "keys": state.keys,
        "keys_total": total,
        "remaining": 0 if done else max(1, total - ended - state.keys),
        "compared": sum(part.compared for part in state.parts.values()),
        "before": state.before,
        "seconds": round(state.seconds, 3),
        "keys_per_second": round(state.keys / state.seconds, 1) if state.seconds else 0.0,
    }


def run(module: AnsibleModule) -> dict[str, Any]:
    """Do what the parameters ask for. Returns the result."""
    options, label = connection.options_from(module.params), module.params["label"]
    with contextlib.closing(Restoring(wish_from(module.params, label), options)) as restoring:
        if module.check_mode:
            if module.params["action"] == "back":
                state = restoring.begun()
                return {"changed": True, **told(state, state.keys)}
            state, manifest, _view = restoring.plan()
            return {"changed": True, **told(state, sum(shard.keys for shard in restore.shards_of(manifest)))}
        with (
            contexts.lock(backup.ENGINE, LOCK_SECONDS, "valkey_restore"),
            contexts.lock(STORE, LOCK_SECONDS, "valkey_restore", shared=True),
        ):
            if module.params["action"] == "back":
                state = restoring.back()
                if state.reached == restore.DONE:
                    return {"changed": True, **told(state, 0)}
            progress = restoring.run()
            return {"changed": True, **told(progress.state, progress.total)}


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
        module.fail_json(msg=f"{error}. Run again: the restore continues where it stopped")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
