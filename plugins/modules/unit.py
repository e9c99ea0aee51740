#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that keeps one systemd unit enabled, running, and running with the files that are on disk."""

from __future__ import annotations

DOCUMENTATION = r"""
module: unit
short_description: Keep a systemd unit enabled and running with the files that are on disk
version_added: 0.1.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Enables, starts, restarts, reloads or stops one systemd unit, whatever is needed and nothing else.
  - It takes the place of handlers. It remembers in C(/run/holdfast/units) which content of the files in
    O(restart_on) and O(reload_on) the running process has loaded, so that a playbook that was killed between
    writing a file and restarting the unit is completed by the next run.
  - Without a memory (the unit was started by somebody else, or the host booted) a file counts as loaded if it has not
    changed since the unit started.
  - C(systemctl daemon-reload) is done where the unit's own file or a drop-in changed.
options:
  name:
    description: Full name of the unit, with its type, for example V(etcd.service).
    type: str
    required: true
  state:
    description:
      - V(started) also restarts or reloads where the files changed.
      - A unit whose C(Condition…=) lines forbid the start is left alone, RV(skipped_by_condition) says so.
    type: str
    choices: [started, stopped]
    default: started
  enabled:
    description: Whether the unit starts at boot. Unchanged if not given.
    type: bool
  restart_on:
    description: Paths of files; the unit is restarted if one of them is not as the running process loaded it.
    type: list
    elements: path
    default: []
  reload_on:
    description:
      - Paths of files; the unit is reloaded if one of them is not as the running process loaded it.
      - A unit that has no reload is restarted.
    type: list
    elements: path
    default: []
  starts:
    description:
      - Full names of units that this one starts, as a timer does its service. C(systemctl daemon-reload) is done where systemd has not
        loaded their files as they are on disk, too.
    type: list
    elements: str
    default: []
  restart_by:
    description:
      - Command that lets a new process take the place of one that runs, without an end in between, in place of C(systemctl restart).
      - The unit keeps its invocation. Where it does not run it is started.
    type: list
    elements: str
    default: []
    version_added: 0.2.0
  no_block:
    description:
      - Do not wait until a start, restart or stop is finished.
      - For members of a cluster that become ready only together.
    type: bool
    default: false
  pending:
    description:
      - Paths of files that would have changed in check mode, so that the restart or the reload is announced. Paths that are neither in
        O(restart_on) nor in O(reload_on) don't count.
      - Has no effect outside check mode, where the files tell by themselves.
    type: list
    elements: path
    default: []
  guard:
    description:
      - Command that must succeed before a running unit is restarted, for example a health check of its cluster.
      - Use it with C(throttle=1), so that one member is down at a time, and none after a restart that went wrong.
    type: list
    elements: str
    default: []
  guard_timeout:
    description: Seconds to wait until O(guard) succeeds.
    type: int
    default: 60
attributes:
  check_mode:
    description: Says what would be done and does nothing.
    support: full
  diff_mode:
    description: Shows the state before and after.
    support: full
"""

EXAMPLES = r"""
- name: Write the configuration
  ansible.builtin.template:
    src: example.conf.j2
    dest: /etc/example.conf
    mode: "0644"
  register: example_configuration

- name: Run the service with it
  holdfast.persistence.unit:
    name: example.service
    enabled: true
    restart_on: [/etc/example.conf]
    reload_on: [/etc/ssl/example.pem]
    pending: "{{ example_configuration is changed | ternary(['/etc/example.conf'], []) }}"
"""

RETURN = r"""
actions:
  description: What was done, in its order; in check mode what would be done.
  type: list
  elements: str
  returned: always
  sample: [daemon_reload, enable, restart]
reasons:
  description: Why, one line for each finding.
  type: list
  elements: str
  returned: always
  sample: [/etc/example.conf is not as the running unit loaded it]
state:
  description: The unit's ActiveState at the end.
  type: str
  returned: always
  sample: active
skipped_by_condition:
  description: Whether a C(Condition…=) line of the unit forbids its start on this host.
  type: bool
  returned: always
  sample: false
"""

import glob
import hashlib
import os
import time
from dataclasses import replace

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import replace_file
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.systemd.unit import (
    PROPERTIES,
    SEARCH_PATH,
    FileState,
    Plan,
    Record,
    Status,
    Wish,
    has_unloaded_files,
    make_plan,
    make_record,
    parse_status,
    unit_names,
)

RECORDS = "/run/holdfast/units"
JOURNAL_LINES = 20
# A process of Type=simple counts as started before it has read its configuration.
SETTLE_SECONDS = 0.5
GUARD_PAUSE_SECONDS = 1.0


class Systemd:
    """systemctl and journalctl for one unit."""

    def __init__(self, module: AnsibleModule, name: str) -> None:
        self._module = module
        self._name = name
        self._systemctl = module.get_bin_path("systemctl", required=True)

    def show(self) -> Status:
        """Read the unit by one call. Raises Refusal where systemd does not answer."""
        command = [self._systemctl, "show", self._name, "--property=" + ",".join(PROPERTIES)]
        code, out, err = self._run(command)
        if code != 0:
            raise Refusal(f"{self._name}: systemctl show failed: {err.strip()}", "Is systemd running on this host?")
        status = parse_status(out, time.time(), time.clock_gettime(time.CLOCK_MONOTONIC))
        return replace(
            status,
            fragment=os.path.realpath(status.fragment) if status.fragment else "",
            drop_ins=tuple(os.path.realpath(path) for path in status.drop_ins),
        )

    def take_over(self, command: list[str]) -> None:
        """Let a command put a new process in the running one's place. Raises Refusal where it fails."""
        code, out, err = self._run(command)
        if code != 0:
            raise self.failure(f"`{' '.join(command)}` failed: {(err or out).strip()}")

    def do(self, action: str, no_block: bool) -> None:
        """Carry out one action of a plan. Raises Refusal with the unit's last log lines where it fails."""
        verb = {"daemon_reload": "daemon-reload", "reset_failed": "reset-failed", "wait": "start"}.get(action, action)
        command = [self._systemctl, verb]
        if action != "daemon_reload":
            command.append(self._name)
        if no_block and action in {"start", "restart", "stop"}:
            command.append("--no-block")
        code, out, err = self._run(command)
        if code != 0:
            raise self.failure(f"systemctl {verb} failed: {(err or out).strip()}")

    def failure(self, found: str) -> Refusal:
        """Return an error that carries the last lines of the unit's journal."""
        journalctl = self._module.get_bin_path("journalctl", required=True)
        command = [journalctl, "--unit", self._name, "--lines", str(JOURNAL_LINES), "--no-pager", "--output", "cat"]
        code, out, err = self._run(command)
        journal = out.strip() if code == 0 else f"(journalctl failed: {err.strip()})"
        return Refusal(f"{self._name}: {found}", f"The last lines of its journal:\n{journal or '(empty)'}")

    def _run(self, command: list[str]) -> tuple[int, str, str]:
        return self._module.run_command(command, environ_update={"LC_ALL": "C", "SYSTEMD_COLORS": "0"})


def read_file_state(path: str) -> FileState:
    """Return digest and ctime of the file at path. Raises IsADirectoryError for a folder."""
    try:
        with open(path, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return FileState(digest, os.fstat(stream.fileno()).st_ctime)
    except FileNotFoundError:
        return FileState()


def files_of_unit(name: str) -> tuple[list[str], list[str]]:
    """Return (unit files, drop-ins) of a unit on disk, resolved, in the order in which systemd prefers them."""
    fragments, drop_ins = [], []
    for own in unit_names(name):
        for folder in SEARCH_PATH:
            path = os.path.join(folder, own)
            if os.path.isfile(path):
                fragments.append(os.path.realpath(path))
            drop_ins += [os.path.realpath(file) for file in sorted(glob.glob(os.path.join(path + ".d", "*.conf")))]
    return fragments, [path for path in drop_ins if path != os.devnull]


def is_unloaded(status: Status, name: str) -> bool:
    """Return whether systemd has not loaded a unit's files as they are on disk."""
    return status.need_daemon_reload or has_unloaded_files(status, *files_of_unit(name))


def record_path(name: str) -> str:
    """Return where the record of a unit is kept."""
    return os.path.join(RECORDS, name + ".json")


def read_record(name: str) -> Record | None:
    """Return what is remembered of a unit."""
    try:
        with open(record_path(name), encoding="utf-8") as stream:
            return Record.from_json(stream.read())
    except FileNotFoundError:
        return None


def write_record(name: str, record: Record | None) -> None:
    """Remember, or forget with None; a killed run leaves the old record or the new one."""
    path = record_path(name)
    if record is None:
        if os.path.exists(path):
            os.unlink(path)
        return
    os.makedirs(RECORDS, mode=0o700, exist_ok=True)
    replace_file(path, record.to_json(), mode=0o600)


def reload_manager_for_new_unit(systemd: Systemd, status: Status, check_mode: bool) -> Status:
    """Return the status after a daemon-reload where systemd does not know the unit yet."""
    if status.load_state != "not-found" or check_mode:
        return status
    systemd.do("daemon_reload", no_block=False)
    return systemd.show()


def refuse_missing(wish: Wish, status: Status, check_mode: bool) -> None:
    """Raise Refusal for a unit that is not there, except in check mode, where its package may be missing only yet."""
    if status.load_state == "not-found" and not check_mode and (wish.state == "started" or wish.enabled):
        raise Refusal(f"{wish.name}: systemd does not find the unit", "Install its package, or correct the name")


def carry_out(systemd: Systemd, plan: Plan, status: Status, no_block: bool, restart_by: list[str]) -> Status:
    """Do what the plan says and return the unit's state after it. Raises Refusal where the unit is not up then."""
    actions = [action for action in plan.actions if not (no_block and action == "wait")]
    if not actions:
        return status
    for action in actions:
        if action == "restart" and restart_by and status.is_up:
            systemd.take_over(restart_by)
        else:
            systemd.do(action, no_block)
    started = bool({"start", "restart", "wait"} & set(actions)) and not no_block
    after = systemd.show()
    if started and after.unit_type in {"simple", "exec", "idle"}:
        time.sleep(SETTLE_SECONDS)
        after = systemd.show()
    if started and not after.is_up and not (after.active_state == "inactive" and _may_be_inactive(after)):
        raise systemd.failure(f"the unit is {after.active_state} ({after.sub_state}) after its start")
    return after


def wait_for_guard(module: AnsibleModule, name: str, guard: list[str], timeout: int) -> None:
    """Return once the command succeeds. Raises Refusal with its output if it does not within timeout seconds."""
    deadline = time.monotonic() + timeout
    while True:
        code, out, err = module.run_command(guard, environ_update={"LC_ALL": "C"})
        if code == 0:
            return
        if time.monotonic() >= deadline:
            said = (err or out).strip()
            raise Refusal(
                f"{name}: not restarted, because its guard `{' '.join(guard)}` still fails after {timeout} s: {said}",
                "Bring what the guard names back to health, then run again",
            )
        time.sleep(GUARD_PAUSE_SECONDS)


def is_queued(plan: Plan, before: Status, after: Status) -> bool:
    """Return whether a start that was not waited for has not begun yet, so that nothing is known about it."""
    return bool({"start", "restart"} & set(plan.actions)) and after.invocation_id == before.invocation_id


def _may_be_inactive(status: Status) -> bool:
    return status.condition_failed or status.unit_type == "oneshot"


def describe(status: Status) -> dict[str, str]:
    """Return what a diff shows of a unit."""
    return {"state": status.active_state, "enabled": status.unit_file_state}


def expected(status: Status, plan: Plan, takes_over: bool = False) -> dict[str, str]:
    """Return what a diff shows of the unit when the plan has been carried out; takes_over, whether a new process does without a stop."""
    state, enabled = status.active_state, status.unit_file_state
    restarted = "active (a new process has taken over)" if takes_over and status.is_up else "active (restarted)"
    for action in plan.actions:
        state = {"start": "active", "stop": "inactive", "restart": restarted}.get(action, state)
        state = "active (reloaded)" if action == "reload" else state
        enabled = {"enable": "enabled", "disable": "disabled"}.get(action, enabled)
    return {"state": state, "enabled": enabled}


def run(module: AnsibleModule) -> dict[str, object]:
    """Read, plan, act, remember; return the result of the module."""
    params = module.params
    wish = Wish(
        name=params["name"],
        state=params["state"],
        enabled=params["enabled"],
        restart_on=tuple(params["restart_on"]),
        reload_on=tuple(params["reload_on"]),
        pending=tuple(params["pending"]) if module.check_mode else (),
    )
    systemd = Systemd(module, wish.name)
    before = reload_manager_for_new_unit(systemd, systemd.show(), module.check_mode)
    refuse_missing(wish, before, module.check_mode)
    if is_unloaded(before, wish.name) or any(
        is_unloaded(Systemd(module, name).show(), name) for name in params["starts"]
    ):
        before = replace(before, need_daemon_reload=True)
    files = {path: read_file_state(path) for path in (*wish.restart_on, *wish.reload_on)}
    record = read_record(wish.name)
    plan = make_plan(wish, before, files, record)
    after = before
    if not module.check_mode:
        if "restart" in plan.actions and params["guard"]:
            wait_for_guard(module, wish.name, params["guard"], params["guard_timeout"])
        after = carry_out(systemd, plan, before, params["no_block"], params["restart_by"])
        if not is_queued(plan, before, after):
            write_record(wish.name, make_record(wish, after, files, record))
    return result(plan, before, after, takes_over=bool(params["restart_by"]))


def result(plan: Plan, before: Status, after: Status, takes_over: bool) -> dict[str, object]:
    """Return what the module returns; a start that the unit's own conditions forbid is no change."""
    skipped = after.condition_failed and after.active_state == "inactive"
    actions = tuple(action for action in plan.actions if not (skipped and action == "start"))
    done = Plan(actions, plan.reasons)
    return {
        "changed": done.is_change,
        "actions": list(actions),
        "reasons": list(plan.reasons) if actions else [],
        "state": after.active_state,
        "skipped_by_condition": skipped,
        "diff": {"before": describe(before), "after": expected(before, done, takes_over)},
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
            "enabled": {"type": "bool"},
            "restart_on": {"type": "list", "elements": "path", "default": []},
            "reload_on": {"type": "list", "elements": "path", "default": []},
            "starts": {"type": "list", "elements": "str", "default": []},
            "restart_by": {"type": "list", "elements": "str", "default": []},
            "no_block": {"type": "bool", "default": False},
            "pending": {"type": "list", "elements": "path", "default": []},
            "guard": {"type": "list", "elements": "str", "default": []},
            "guard_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except Refusal as error:
        module.fail_json(msg=str(error), unit=module.params["name"])
    except OSError as error:
        module.fail_json(msg=f"{module.params['name']}: {error}")


if __name__ == "__main__":
    main()
