#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that pauses and resumes PgBouncer's pools, so that they always continue again."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pgbouncer_pool
short_description: Pause, resume and reconnect PgBouncer's pools
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - A pause lets transactions end, closes the connections to PostgreSQL and keeps the clients waiting. It is held by a transient systemd
    unit on the host (C(holdfast-pgbouncer-hold.service)), which resumes by itself after O(hold) seconds, also when it is killed and
    when the controller is gone.
  - With O(follow) the unit resumes as soon as another member of Patroni leads and this host's HAProxy sends connections only there; it
    tells HAProxy at once. So a switchover needs no controller between pause and resume.
  - V(armed) starts the unit without a pause. It waits up to O(arm) seconds for somebody to pause, such as
    M(holdfast.persistence.patroni_switchover), which does so on all balancers at once, and from then on holds the pause like its own.
  - A pause ends the clients of pools in session mode, once all transactions of the others have ended. Who connects again waits with
    the others.
  - A pause that is not reached within O(pause_timeout) is given up and is an error that names the pools at work. A pause belongs to who
    made it, so pausing what is paused already is an error too.
  - Needs the program that the role C(pgbouncer) installs, and to run as root. What PgBouncer has to tell is read by
    M(holdfast.persistence.pgbouncer_info).
options:
  state:
    description:
      - V(paused) and V(resumed) are for all pools of the host.
      - V(reconnected) closes each connection to PostgreSQL when it is released, so that the next ones go where HAProxy sends
        them now, and have the settings and plans of now. No client sees an error. It always reports a change where there are connections.
        Pools in session mode are left alone.
    type: str
    choices: [paused, armed, resumed, reconnected]
    required: true
  database:
    description: With V(state=reconnected), the database in PostgreSQL whose connections are renewed, under all its names. All where empty.
    type: str
    default: ""
  wait:
    description: With V(state=reconnected), how long to wait until the last of them is renewed, in seconds.
    type: float
    default: 30
  pause_timeout:
    description: How long transactions may last until the pause is given up, in seconds.
    type: float
    default: 5
  hold:
    description: After how many seconds from the begin of the pause the pools are resumed whatever happens.
    type: float
    default: 15
  patience:
    description: With V(state=resumed), how long a hold may continue by itself before it is ended, in seconds.
    type: float
    default: 0
  arm:
    description: With V(state=armed), how long to wait for a pause, in seconds.
    type: float
    default: 30
  follow:
    description: What makes the pools continue earlier, a new primary.
    type: dict
    suboptions:
      leader:
        description: Name of the member that leads now.
        type: str
        required: true
      candidate:
        description: Name of the member that will lead. Any other one than O(follow.leader) where empty.
        type: str
        default: ""
      members:
        description: Addresses of all members' REST API by name, such as V(https://192.0.2.11:8008).
        type: dict
        required: true
      ca_cert:
        description: File with the CA certificate that the members' certificates are verified by.
        type: path
        required: true
      client_cert:
        description: PEM file with private key and certificate to show to the members.
        type: path
        required: true
      backend:
        description: HAProxy's back end for read-write connections, whose servers have the members' names.
        type: str
        default: read_write_members
      haproxy_socket:
        description: Path of the Unix socket of HAProxy's runtime API.
        type: path
        default: /run/haproxy/admin.sock
  socket:
    description: Path of PgBouncer's Unix socket.
    type: path
    default: /run/postgresql/.s.PGSQL.6432
  user:
    description: System user that PgBouncer runs as.
    type: str
    default: postgres
  timeout:
    description: Time for each answer, in seconds.
    type: float
    default: 5
attributes:
  check_mode:
    description: Says whether it would change something.
    support: full
  diff_mode:
    description: Shows the state before and after.
    support: full
"""

EXAMPLES = r"""
- name: Pause the pools for at most 15 s, until another member than node1 leads
  holdfast.persistence.pgbouncer_pool:
    state: paused
    follow:
      leader: node1
      members: {node1: "https://192.0.2.11:8008", node2: "https://192.0.2.12:8008"}
      ca_cert: /etc/ssl/holdfast/ca.crt
      client_cert: /etc/ssl/holdfast/haproxy.pem
  become: true

- name: Give the pools of a database new connections, after a migration
  holdfast.persistence.pgbouncer_pool:
    state: reconnected
    database: orderdb
  become: true

- name: Resume them, whatever became of the pause
  holdfast.persistence.pgbouncer_pool:
    state: resumed
  become: true
  register: pools
"""

RETURN = r"""
renewed:
  description: With V(state=reconnected), the names whose connections were renewed; in check mode, would be.
  type: list
  elements: str
  returned: success
  sample: [orderdb, orderdb_ro]
pending:
  description: Those of them whose last connection was not renewed in time, as a transaction still continues; it is when that ends.
  type: list
  elements: str
  returned: success
  sample: [orderdb_session]
known:
  description: Whether this PgBouncer knows O(database), or none was given.
  type: bool
  returned: success
  sample: true
before:
  description: Whether the pools were V(paused) or V(active).
  type: str
  returned: success
  sample: active
after:
  description: Whether they are V(paused) or V(active) now; in check mode, would be.
  type: str
  returned: success
  sample: paused
pause:
  description: The pause that was made, or with V(state=resumed) the one that ended last. Empty where there was none since the host started.
  type: dict
  returned: success
  sample: {state: resumed, pause_took: 0.02, seconds: 1.9, reason: new primary, run: 3f8a1f5d6b0c4e7a9d2e8c1b7a6f5e4d}
  contains:
    state:
      description: V(armed), V(paused), V(resumed), or V(refused) where the pause was not reached.
      type: str
    pause_took:
      description: How long it took until the last transaction had ended, in seconds.
      type: float
    seconds:
      description: From the begin of the pause until the pools were resumed, in seconds.
      type: float
    reason:
      description: Why they were resumed, V(new primary), V(asked to), V(the time was over) or V(nobody paused).
      type: str
    run:
      description: An identifier of the pause.
      type: str
"""

import json
import os
import time
import uuid
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import make_folders
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.local import (
    connect,
    is_paused,
    predecessors,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.pause import quoted
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.renew import known, to_renew
from ansible_collections.holdfast.persistence.plugins.module_utils.programs.layout import path_of, start_of
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

UNIT = "holdfast-pgbouncer-hold.service"
PROGRAM = "pgbouncer-hold"
FOLDER = "/run/holdfast"
CONFIG = f"{FOLDER}/pgbouncer-hold.json"
REPORT = f"{FOLDER}/pgbouncer-hold-report.json"
# Beyond the hold's own limits systemd ends it.
SPARE_SECONDS = 5
LOOK_SECONDS = 0.1


def paused(params: dict[str, Any]) -> bool:
    """Return whether the pools are known to be paused. Raises Refusal."""
    with connect(params["socket"], params["user"], params["timeout"]) as console:
        return bool(is_paused(console))


def command(params: dict[str, Any], statement: str) -> None:
    """Run a command on the console. Raises Refusal."""
    with connect(params["socket"], params["user"], params["timeout"]) as console:
        console.rows(statement)


def report() -> dict[str, Any]:
    """Return what the last hold wrote, nothing where there was none."""
    try:
        with open(REPORT, encoding="utf-8") as stream:
            found: dict[str, Any] = json.load(stream)
    except FileNotFoundError:
        return {}
    return found


def held(module: AnsibleModule) -> bool:
    """Return whether a hold is at work."""
    _code, out, _errors = module.run_command([module.get_bin_path("systemctl", required=True), "is-active", UNIT])
    return out.strip() in ("active", "activating", "deactivating")


def hold_config(params: dict[str, Any], run: str) -> dict[str, Any]:
    """Return what the hold reads."""
    follow = params["follow"] or {
        "leader": "",
        "candidate": "",
        "members": {},
        "ca_cert": "",
        "client_cert": "",
        "backend": "",
        "haproxy_socket": "",
    }
    arm = params["arm"] if params["state"] == "armed" else 0
    return {
        **follow,
        **{key: params[key] for key in ("socket", "user", "pause_timeout", "hold")},
        "arm": arm,
        "run": run,
    }


def pause(module: AnsibleModule) -> dict[str, Any]:
    """Begin to hold the pools; return the report of the pause."""
    params = module.params
    if not os.path.exists(path_of(PROGRAM)):
        module.fail_json(
            msg=f"{path_of(PROGRAM)} is missing: run playbooks/site.yml (--tags pgbouncer) first. Nothing was changed."
        )
    make_folders(FOLDER)
    run = uuid.uuid4().hex
    with open(os.open(CONFIG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        json.dump(hold_config(params, run), stream)
    limit = params["pause_timeout"] + params["hold"] + params["arm"] + SPARE_SECONDS
    code, out, errors = module.run_command(
        [
            module.get_bin_path("systemd-run", required=True),
            f"--unit={UNIT}",
            "--collect",
            "--quiet",
            "--service-type=notify",
            "--description=Hold PgBouncer's pools for a switchover",
            f"--property=RuntimeMaxSec={limit:g}",
            f"--property=ExecStopPost={' '.join(start_of(PROGRAM))} --release",
            *start_of(PROGRAM),
        ]
    )
    found = report()
    if code != 0 or found.get("run") != run:
        reason = found["reason"] if found.get("run") == run else f"{out}{errors}".strip()
        module.fail_json(
            msg=f"The pools were not paused and still serve: {reason}. End those transactions, or raise pause_timeout, then run again "
            f"(journalctl -u {UNIT})."
        )
    return found


def resume(module: AnsibleModule, before: bool, is_held: bool) -> None:
    """End a hold, and a pause that nobody holds. Raises Refusal."""
    deadline = time.monotonic() + module.params["patience"]
    while is_held and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        is_held = held(module)
    if is_held:
        code, out, errors = module.run_command([module.get_bin_path("systemctl", required=True), "stop", UNIT])
        # A hold may have ended by itself meanwhile: what counts is that the pools continue.
        if code != 0 and paused(module.params):
            module.fail_json(msg=f"{UNIT} does not end: {out}{errors}".strip())
    if (before or is_held) and paused(module.params):
        command(module.params, "RESUME")


def renew(params: dict[str, Any], act: bool) -> dict[str, Any]:
    """Renew connections; return what the module tells of it. Raises Refusal."""
    with connect(params["socket"], params["user"], params["timeout"]) as console:
        databases = console.rows("SHOW DATABASES")
        names = to_renew(databases, console.rows("SHOW POOLS"), params["database"])
        for name in names if act else ():
            console.rows(f"RECONNECT {quoted(name)}")
    return {
        "renewed": names,
        "pending": wait_closed(params, names) if act else [],
        "known": not params["database"] or known(databases, params["database"]),
    }


def wait_closed(params: dict[str, Any], names: list[str]) -> list[str]:
    """Wait until the old connections are closed; return the names that still have some when the time is over. Raises Refusal."""
    deadline = time.monotonic() + params["wait"]
    for place, name in enumerate(names):
        with connect(params["socket"], params["user"], params["timeout"]) as console:
            console.limit(max(LOOK_SECONDS, deadline - time.monotonic()))
            try:
                console.rows(f"WAIT_CLOSE {quoted(name)}")
            except Refusal:
                if time.monotonic() >= deadline:
                    return names[place:]
                raise
    return []


def run(module: AnsibleModule) -> dict[str, Any]:
    """Read, act, verify; return the result of the module. Raises Refusal."""
    wish, act = module.params["state"], not module.check_mode
    before, is_held = paused(module.params), held(module)
    found: dict[str, Any] = {}
    told: dict[str, Any] = {"renewed": [], "pending": [], "known": True}
    after = before
    if wish == "reconnected":
        told = renew(module.params, act)
        changed = bool(told["renewed"])
    elif wish == "resumed":
        changed, after = before or is_held, False
        if act:
            resume(module, before, is_held)
            found = report()
    else:
        if before or is_held:
            module.fail_json(
                msg="The pools are paused already, by another operation or by hand. Wait until that ends, or end it with state=resumed. "
                "Nothing was changed."
            )
        if older := predecessors(module.params["socket"]):
            module.fail_json(
                msg=f"PgBouncer's older process {older[0]} still serves clients from before an update, and cannot be paused. "
                f"Wait until they have reconnected, or disconnect each after its transaction: kill -INT {older[0]}. "
                "Nothing was changed."
            )
        changed, after = True, wish == "paused"
        if act:
            found = pause(module)
    names = {True: "paused", False: "active"}
    return {
        "changed": changed,
        "before": names[before],
        "after": names[after],
        "pause": found,
        **told,
        "diff": {"before": f"pools {names[before]}\n", "after": f"pools {names[after]}\n"},
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["paused", "armed", "resumed", "reconnected"], "required": True},
            "database": {"type": "str", "default": ""},
            "wait": {"type": "float", "default": 30},
            "pause_timeout": {"type": "float", "default": 5},
            "hold": {"type": "float", "default": 15},
            "arm": {"type": "float", "default": 30},
            "patience": {"type": "float", "default": 0},
            "follow": {
                "type": "dict",
                "options": {
                    "leader": {"type": "str", "required": True},
                    "candidate": {"type": "str", "default": ""},
                    "members": {"type": "dict", "required": True},
                    "ca_cert": {"type": "path", "required": True},
                    "client_cert": {"type": "path", "required": True},
                    "backend": {"type": "str", "default": "read_write_members"},
                    "haproxy_socket": {"type": "path", "default": "/run/haproxy/admin.sock"},
                },
            },
            "socket": {"type": "path", "default": "/run/postgresql/.s.PGSQL.6432"},
            "user": {"type": "str", "default": "postgres"},
            "timeout": {"type": "float", "default": 5},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except Refusal as error:
        module.fail_json(
            msg=f"PgBouncer does not answer: {error}. Check whether the service runs: systemctl status pgbouncer"
        )


if __name__ == "__main__":
    main()
