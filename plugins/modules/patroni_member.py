#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that restarts, reloads, rebuilds or tags a Patroni member, and pauses Patroni."""

from __future__ import annotations

DOCUMENTATION = r"""
module: patroni_member
short_description: Restart, reload, rebuild or tag a Patroni member, pause and resume Patroni
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Asks the member at O(url) by its REST API and looks at its state again until it is as asked.
  - A primary that restarts is away for the time; let another member lead first (M(holdfast.persistence.patroni_switchover)), or pause the
    pools (M(holdfast.persistence.pgbouncer_pool)).
options:
  state:
    description:
      - V(restarted) restarts PostgreSQL, not Patroni, and waits until it runs, or follows.
      - V(reloaded) lets Patroni read its configuration file and PostgreSQL reload. It always reports a change.
      - V(reinitialized) deletes the data of a replica and copies it anew. Refused on the member that leads.
      - V(paused) and V(resumed) are for the whole cluster. While Patroni is paused nobody fails over.
      - V(tagged) gives the member O(tags), in its configuration file and in what it tells.
    type: str
    choices: [restarted, reloaded, reinitialized, paused, resumed, tagged]
    required: true
  pending:
    description: With V(state=restarted), do it only where settings wait for a restart.
    type: bool
    default: false
  tags:
    description:
      - All tags of the member, such as C(nofailover), for V(state=tagged).
      - What shall stay belongs into the variable C(patroni_tags); the role writes the file anew.
    type: dict
    default: {}
  config_file:
    description: Patroni's configuration file on this host, for V(state=tagged).
    type: path
    default: /etc/patroni/config.yml
  wait:
    description: How long it may take, in seconds. Copying much data takes longer.
    type: float
    default: 60
extends_documentation_fragment:
  - holdfast.persistence.patroni
attributes:
  check_mode:
    description: Says whether it would change something, and refuses what would be refused.
    support: full
  diff_mode:
    description: Shows the state before and after.
    support: full
seealso:
  - module: holdfast.persistence.patroni_cluster_info
"""

EXAMPLES = r"""
- name: Restart PostgreSQL where settings wait for it
  holdfast.persistence.patroni_member:
    state: restarted
    pending: true
    url: https://192.0.2.12:8008
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/postgresql.pem

- name: Never let this member lead
  holdfast.persistence.patroni_member:
    state: tagged
    tags: {nofailover: true}
    url: https://192.0.2.12:8008
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/postgresql.pem
  become: true
"""

RETURN = r"""
member:
  description: C(name), C(state), C(role), C(started) (the postmaster), C(paused), C(tags) of the member at the end.
  type: dict
  returned: success
  sample: {name: node2, state: running, role: replica, started: "2026-11-26 04:12:43.511101+00:00", paused: false, tags: {}}
pending_restart:
  description: Settings that still wait for a restart, C(name) and values where Patroni tells them.
  type: list
  elements: str
  returned: success
  sample: ["max_connections: 200 -> 100"]
seconds:
  description: How long it took, in seconds.
  type: float
  returned: success
  sample: 2.4
"""

import os
import time
from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import replace_file
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.connection import argument_spec, client_of
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.member import (
    Member,
    describe_pending,
    effective_tags,
    parse_member,
    with_tags,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.rest import (
    Client,
    PatroniError,
    UntrustedError,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

LOOK_SECONDS = 0.2


def look(client: Client) -> Member:
    """Return the member's state, also while PostgreSQL does not run. Raises PatroniError and Refusal."""
    return parse_member(client.get_state())


def await_member(client: Client, accept: Callable[[Member], bool], seconds: float, wanted: str) -> Member:
    """Return the member's state once it is accepted. Raises Refusal when it is not in time, UntrustedError at once."""
    deadline = time.monotonic() + seconds
    while True:
        found = ""
        try:
            member = look(client)
            if accept(member):
                return member
            found = f"{member.name} is '{member.state}' as {member.role}" + (
                f", replication is '{member.replication_state}'" if member.replication_state else ""
            )
        except UntrustedError:
            raise
        except PatroniError as error:
            found = str(error)
        if time.monotonic() >= deadline:
            raise Refusal(
                f"not {wanted} after {seconds:g} s: {found}. Read the journal on that host: journalctl -u patroni"
            )
        time.sleep(LOOK_SECONDS)


def restart(client: Client, before: Member, params: dict[str, Any]) -> Member:
    """Restart PostgreSQL. Raises Refusal and PatroniError."""
    client.post("/restart", {}, params["wait"])
    return await_member(
        client, lambda member: member.works and member.started != before.started, params["wait"], "restarted"
    )


def reinitialize(client: Client, before: Member, params: dict[str, Any]) -> Member:
    """Copy a replica anew. Raises Refusal and PatroniError."""
    client.post("/reinitialize", {"force": True}, params["wait"])
    return await_member(
        client, lambda member: member.works and member.started != before.started, params["wait"], "copied anew"
    )


def reload_member(client: Client, _before: Member, params: dict[str, Any]) -> Member:
    """Let the member read its configuration. Raises Refusal and PatroniError."""
    client.post("/reload", {}, params["timeout"])
    return await_member(client, lambda member: member.works, params["wait"], "running after the reload")


def pause(client: Client, _before: Member, params: dict[str, Any]) -> Member:
    """Pause or resume Patroni, and wait until the member knows. Raises Refusal and PatroniError."""
    wanted = params["state"] == "paused"
    client.patch("/config", {"pause": True if wanted else None})
    return await_member(client, lambda member: member.paused == wanted, params["wait"], params["state"])


def tag(client: Client, _before: Member, params: dict[str, Any]) -> Member:
    """Write the tags, reload, and wait until the member tells them. Raises Refusal, PatroniError and OSError."""
    found = os.stat(params["config_file"])
    replace_file(
        params["config_file"],
        with_tags(read_file(params["config_file"]), params["tags"]),
        mode=found.st_mode & 0o7777,
        uid=found.st_uid,
        gid=found.st_gid,
    )
    client.post("/reload", {}, params["timeout"])
    wanted = effective_tags(params["tags"])
    return await_member(
        client, lambda member: effective_tags(member.tags) == wanted, params["wait"], "known by these tags"
    )


def read_file(path: str) -> str:
    """Return the content of a file."""
    with open(path, encoding="utf-8") as stream:
        return stream.read()


def is_done(client: Client, member: Member, params: dict[str, Any]) -> bool:
    """Return whether there is nothing to do. Raises Refusal for what is refused, PatroniError and OSError."""
    state = params["state"]
    if state == "reinitialized" and member.leads:
        raise Refusal(
            f"{member.name} leads, so its data is the cluster's: run switchover.yml first. Nothing was changed"
        )
    if state == "restarted":
        return params["pending"] and not member.pending_restart
    if state in ("paused", "resumed"):
        wanted = state == "paused"
        return bool(client.get("/config").get("pause", False)) == wanted and member.paused == wanted
    if state == "tagged":
        text = read_file(params["config_file"])
        return with_tags(text, params["tags"]) == text and effective_tags(member.tags) == effective_tags(params["tags"])
    return False


ACTIONS = {
    "restarted": restart,
    "reloaded": reload_member,
    "reinitialized": reinitialize,
    "paused": pause,
    "resumed": pause,
    "tagged": tag,
}


def told(member: Member) -> dict[str, Any]:
    """Return what the module tells of a member."""
    return {
        "name": member.name,
        "state": member.state,
        "role": member.role,
        "started": member.started,
        "paused": member.paused,
        "tags": dict(member.tags),
    }


def run(module: AnsibleModule) -> dict[str, Any]:
    """Read, decide, act, verify; return the result of the module."""
    params = module.params
    client = client_of(params)
    before = look(client)
    after, begun = before, time.monotonic()
    done = is_done(client, before, params)
    if not done and not module.check_mode:
        after = ACTIONS[params["state"]](client, before, params)
    shown = told(after) if not module.check_mode or done else {**told(before), "state": params["state"]}
    return {
        "changed": not done,
        "member": told(after),
        "pending_restart": describe_pending(after),
        "seconds": round(time.monotonic() - begun, 3),
        "diff": {"before": told(before), "after": shown},
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=argument_spec(
            state={
                "type": "str",
                "choices": ["restarted", "reloaded", "reinitialized", "paused", "resumed", "tagged"],
                "required": True,
            },
            pending={"type": "bool", "default": False},
            tags={"type": "dict", "default": {}},
            config_file={"type": "path", "default": "/etc/patroni/config.yml"},
            wait={"type": "float", "default": 60},
        ),
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (Refusal, PatroniError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
