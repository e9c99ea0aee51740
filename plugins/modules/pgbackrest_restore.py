#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
"""Module with the steps of a restore that happen on one host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pgbackrest_restore
short_description: The steps of a restore of a Patroni cluster that happen on one host
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Each call does one step of C(restore_postgresql.yml). A step that is done already does nothing, so that an interrupted restore goes
    on where it stopped.
  - How far a restore is stands in O(state_file) on the host that is restored.
  - Steps on one host wait for each other, so that a step that goes on after its run was killed meets no second one.
  - Nothing is deleted but by O(step=cleanup). The old data directory is kept beside the new one as C(<data_dir>.before-<id>).
options:
  step:
    description:
      - V(look) tells what is there.
      - V(plan) finds backup and timeline for the target and begins a restore; while one is unfinished it must be the same.
      - V(aside) moves the data directory aside. V(restore) fills a new one.
      - V(prove) starts PostgreSQL alone, waits until the target is reached, asks O(probes), and stops it.
      - V(mark) writes down that O(reached) is reached.
      - V(back) puts the old data directory in its place again. V(forget) ends a restore that went back.
      - V(cleanup) deletes the data directories that were kept.
    type: str
    choices: [look, plan, aside, restore, prove, mark, back, forget, cleanup]
    required: true
  stanza:
    description: Name of the stanza.
    type: str
    required: true
  data_dir:
    description: PostgreSQL's data directory.
    type: path
    required: true
  bin_dir:
    description: Folder of PostgreSQL's programs.
    type: path
    required: true
  socket_dir:
    description: Folder of PostgreSQL's socket.
    type: path
    default: /var/run/postgresql
  spool_dir:
    description: Folder in which pgBackRest keeps WAL on its way; what was fetched for the old data is dropped from it.
    type: path
    default: /var/spool/pgbackrest
  state_file:
    description: Path of the file that says how far a restore is.
    type: path
    default: /var/lib/postgresql/holdfast-restore.json
  type:
    description: Kind of the target.
    type: str
    choices: [latest, time, lsn, xid, name, backup]
    default: latest
  target:
    description: The target; a time needs its offset from UTC.
    type: str
    default: ""
  label:
    description: Backup to begin with. The newest before the target where not given.
    type: str
    default: ""
  timeline:
    description: Timeline to follow, a number. 0 means the one of the data directory.
    type: int
    default: 0
  exclusive:
    description: Whether recovery ends just before the target.
    type: bool
    default: false
  probes:
    description: Queries that must each return C(t) after recovery.
    type: list
    elements: dict
    default: []
    suboptions:
      database:
        description: Name of the database.
        type: str
        default: postgres
      query:
        description: SQL that returns one boolean.
        type: str
        required: true
  timeout:
    description: Seconds that recovery may take, and that a step waits for one that a killed run has left at work.
    type: int
    default: 3600
  id:
    description: Name of the restore, as V(plan) returned it.
    type: str
    default: ""
  reached:
    description: What V(mark) writes down.
    type: str
    choices: [dropped, leading, copied, done]
attributes:
  check_mode:
    description: Says what the step would do and does nothing; V(plan) is computed.
    support: full
  diff_mode:
    description: There is no diff.
    support: none
"""

EXAMPLES = r"""
- name: What would be restored
  holdfast.persistence.pgbackrest_restore:
    step: plan
    stanza: lab
    data_dir: /var/lib/postgresql/17/lab
    bin_dir: /usr/lib/postgresql/17/bin
    type: time
    target: "2026-01-31 12:00:00+00:00"
  check_mode: true
"""

RETURN = r"""
state:
  description: The restore on this host - id, target, backup, arguments, and how far it is. Empty where there is none.
  type: dict
  returned: success
primary:
  description: Whether the data directory is that of a primary, also when PostgreSQL is stopped.
  type: bool
  returned: O(step=look)
kept:
  description: Data directories that restores have kept.
  type: list
  elements: str
  returned: O(step=look) and O(step=cleanup)
"""

import glob
import json
import os
import pwd
import shutil
import tempfile
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import replace_file
from ansible_collections.holdfast.persistence.plugins.module_utils.files.lock import locked
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest import recovery, repository
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

POLL_SECONDS = 0.5
LOG_LINES = 15
AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig=KILL", "--")


class Restore:
    """The steps on this host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.data_dir: str = module.params["data_dir"]
        self._lock()
        self.state = self._load()

    def _lock(self) -> None:
        """Wait for a step that a killed run has left at work here. The kernel lets the lock go with this process."""
        folder = os.path.dirname(self.params["state_file"])
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        if not locked(descriptor, self.params["timeout"]):
            raise Refusal(
                f"a step of an earlier run is still at work after {self.params['timeout']} s (restore_timeout): "
                f"see who it is with: fuser -v {folder}"
            )

    def _load(self) -> dict[str, Any]:
        try:
            with open(self.params["state_file"], encoding="utf-8") as stream:
                return json.load(stream)
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise Refusal(f"{self.params['state_file']} is damaged ({error}): look at it and delete it") from error

    def _save(self, **changes: Any) -> None:
        self.state = {**self.state, **changes}
        replace_file(self.params["state_file"], json.dumps(self.state, indent=2), mode=0o600)

    def _run(self, *command: str) -> tuple[int, str, str]:
        """Run a command as postgres; it ends with this module, also where that is killed."""
        return self.module.run_command([*AS_POSTGRES, *command], cwd="/")

    def _program(self, name: str) -> str:
        return os.path.join(self.params["bin_dir"], name)

    def _pgbackrest(self, *arguments: str) -> tuple[int, str, str]:
        return self._run("pgbackrest", f"--stanza={self.params['stanza']}", *arguments)

    def _kept(self) -> list[str]:
        found = glob.glob(f"{glob.escape(self.data_dir)}.before-*") + glob.glob(
            f"{glob.escape(self.data_dir)}.restored-*"
        )
        return sorted(found)

    def _aside(self) -> str:
        if not self.params["id"]:
            raise Refusal("id is missing")
        return f"{self.data_dir}.before-{self.params['id']}"

    def _control(self, folder: str) -> dict[str, str]:
        code, out, err = self._run("env", "LC_ALL=C", self._program("pg_controldata"), folder)
        if code:
            raise Refusal(f"{folder} can't be read: {err.strip()}")
        pairs = (line.partition(":") for line in out.splitlines())
        return {name.strip(): value.strip() for name, _colon, value in pairs}

    def _runs(self) -> bool:
        return self._run(self._program("pg_ctl"), "-D", self.data_dir, "status")[0] == 0

    def look(self) -> dict[str, Any]:
        """Tell what is there."""
        folder = self.data_dir
        # pgBackRest writes the control file last: without it there is nothing whole.
        if not os.path.exists(os.path.join(folder, "global", "pg_control")):
            before = sorted(glob.glob(f"{glob.escape(self.data_dir)}.before-*"))
            folder = before[-1] if before else ""
        state = self._control(folder)["Database cluster state"] if folder else ""
        return {"changed": False, "primary": state in ("in production", "shut down"), "kept": self._kept()}

    def plan(self) -> dict[str, Any]:
        """Begin a restore, or go on with the same one."""
        wish = {key: self.params[key] for key in ("type", "target", "label", "timeline", "exclusive")}
        if self.state and self.state["reached"] != "done":
            if self.state["wish"] != wish:
                raise Refusal(
                    f"a restore to {self.state['wish']['type']} {self.state['wish']['target']} is not finished (reached: "
                    f"{self.state['reached']}): go on with the same target, or go back with restore_action=back"
                )
            return {"changed": False}
        target = recovery.parse_target(wish["type"], wish["target"])
        control = self._control(self.data_dir)
        system = int(control["Database system identifier"])
        timeline = wish["timeline"] or int(control["Latest checkpoint's TimeLineID"])
        code, out, err = self._pgbackrest("--log-level-console=off", "--output=json", "info")
        if code:
            raise Refusal(f"the repositories can't be read: {err.strip() or out.strip()}")
        stanza = repository.parse(out, self.params["stanza"])
        chosen = recovery.plan(
            stanza,
            target,
            system_identifier=system,
            timeline=timeline,
            history=self._history(timeline),
            now=time.time(),
            label=wish["label"],
        )
        state = {
            "id": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
            "wish": wish,
            "backup": chosen.backup.label,
            "timeline": chosen.timeline,
            "arguments": chosen.arguments(wish["exclusive"]),
            "reached": "planned",
        }
        if self.module.check_mode:
            self.state = state
        else:
            self.state = {}
            self._save(**state)
        return {"changed": True}

    def _history(self, timeline: int) -> dict[int, int]:
        if timeline == 1:
            return {}
        folder = tempfile.mkdtemp(prefix="holdfast-")
        try:
            shutil.chown(folder, "postgres")
            path = os.path.join(folder, "history")
            code, out, err = self._pgbackrest("--no-archive-async", "archive-get", f"{timeline:08X}.history", path)
            if code:
                raise Refusal(f"the archive has no history of timeline {timeline}: {err.strip() or out.strip()}")
            with open(path, encoding="utf-8") as stream:
                return recovery.parse_history(stream.read())
        finally:
            shutil.rmtree(folder)

    def aside(self) -> dict[str, Any]:
        """Move the data directory aside, once."""
        target = self._aside()
        if os.path.exists(target) or not os.path.exists(self.data_dir):
            return {"changed": False}
        if self._runs():
            raise Refusal(f"PostgreSQL runs in {self.data_dir}: stop Patroni first")
        if os.listdir(os.path.join(self.data_dir, "pg_tblspc")):
            raise Refusal(f"{self.data_dir} has tablespaces, which this way of restoring does not keep aside")
        if not self.module.check_mode:
            os.rename(self.data_dir, target)
        return {"changed": True}

    def restore(self) -> dict[str, Any]:
        """Fill a new data directory from the backup."""
        if self.state["reached"] != "planned":
            return {"changed": False}
        if self.module.check_mode:
            return {"changed": True}
        if not os.path.exists(self._aside()):
            raise Refusal(f"{self._aside()} is not there: the old data must be aside first")
        # What an interrupted restore left. The old data is aside, and PostgreSQL was never started in here.
        for path in (self.data_dir, os.path.join(self.params["spool_dir"], "archive")):
            if os.path.exists(path):
                shutil.rmtree(path)
        os.mkdir(self.data_dir, mode=0o700)
        user = pwd.getpwnam("postgres")
        os.chown(self.data_dir, user.pw_uid, user.pw_gid)
        code, out, err = self._pgbackrest("--log-level-console=warn", *self.state["arguments"], "restore")
        if code:
            raise Refusal(f"pgBackRest could not restore {self.state['backup']}: {out.strip()} {err.strip()}")
        self._save(reached="restored")
        return {"changed": True}

    def prove(self) -> dict[str, Any]:
        """Start PostgreSQL alone, wait for the end of recovery, ask the probes, stop it."""
        if self.state["reached"] != "restored":
            return {"changed": False}
        if self.module.check_mode:
            return {"changed": True}
        log = f"{self.params['state_file']}.log"
        if not self._runs():
            # Without listeners nobody writes; hot_standby would refuse settings smaller than the backed up primary's.
            options = "-c listen_addresses= -c hot_standby=off -c synchronous_standby_names="
            options += f" -c unix_socket_directories={self.params['socket_dir']} -c logging_collector=off"
            if os.path.exists(log):
                os.unlink(log)
            self._run(self._program("pg_ctl"), "-D", self.data_dir, "-W", "-l", log, "-o", options, "start")
        try:
            self._wait_for_end_of_recovery(log)
            failed = [probe["query"] for probe in self.params["probes"] if self._ask(probe) != "t"]
            if failed:
                raise Refusal(f"recovery ended, but these probes did not return true: {'; '.join(failed)}")
            timeline, position = self._ask(
                {"database": "postgres", "query": "SELECT pg_walfile_name(pg_current_wal_lsn()), pg_current_wal_lsn()"}
            ).split("|")
        finally:
            self._stop()
        self._save(reached="proved", new_timeline=repository.timeline_of(timeline), position=position)
        return {"changed": True}

    def _stop(self) -> None:
        if self._runs():
            code, out, err = self._run(self._program("pg_ctl"), "-D", self.data_dir, "-m", "fast", "-w", "stop")
            if code:
                raise Refusal(f"PostgreSQL does not stop: {out.strip()} {err.strip()}")

    def _ask(self, probe: dict[str, str]) -> str:
        command = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", self.params["socket_dir"]]
        code, out, err = self._run(*command, "-d", probe["database"], "-c", probe["query"])
        if code:
            raise Refusal(f"{probe['query']}: {err.strip()}")
        return out.strip()

    def _wait_for_end_of_recovery(self, log: str) -> None:
        deadline = time.monotonic() + self.params["timeout"]
        command = [
            "psql",
            "-XAtq",
            "-h",
            self.params["socket_dir"],
            "-d",
            "postgres",
            "-c",
            "SELECT pg_is_in_recovery()",
        ]
        while True:
            code, out, _err = self._run(*command)
            if code == 0 and out.strip() == "f":
                return
            if not self._runs():
                raise Refusal(f"PostgreSQL stopped before the target was reached. {self._why(log)}")
            if time.monotonic() > deadline:
                raise Refusal(
                    f"recovery took longer than {self.params['timeout']} s (restore_timeout). {self._why(log)}"
                )
            time.sleep(POLL_SECONDS)

    def _why(self, log: str) -> str:
        with open(log, encoding="utf-8", errors="replace") as stream:
            lines = stream.read().splitlines()
        remedy = "Go back with restore_action=back, then restore to another target"
        if any("recovery ended before configured recovery target was reached" in line for line in lines):
            remedy += ", or begin with an older backup (restore_set) where the target lies before the one chosen"
        return f"{remedy}. It said: " + " / ".join(lines[-LOG_LINES:])

    def mark(self) -> dict[str, Any]:
        """Write down how far the restore is."""
        if not self.state or self.state["reached"] == self.params["reached"]:
            return {"changed": False}
        if not self.module.check_mode:
            self._save(reached=self.params["reached"])
        return {"changed": True}

    def back(self) -> dict[str, Any]:
        """Put the old data directory in its place again."""
        kept, restored = self._aside(), f"{self.data_dir}.restored-{self.params['id']}"
        if not os.path.exists(kept):
            return {"changed": False}
        # What a killed `prove` left running is ended here; anything else is not ours.
        if self.state.get("reached") != "restored" and os.path.exists(self.data_dir) and self._runs():
            raise Refusal(f"PostgreSQL runs in {self.data_dir}: stop Patroni first")
        if not self.module.check_mode:
            if os.path.exists(self.data_dir):
                self._stop()
                os.rename(self.data_dir, restored)
            os.rename(kept, self.data_dir)
        return {"changed": True}

    def forget(self) -> dict[str, Any]:
        """End a restore that went back."""
        if not self.state:
            return {"changed": False}
        if not self.module.check_mode:
            os.unlink(self.params["state_file"])
        return {"changed": True}

    def cleanup(self) -> dict[str, Any]:
        """Delete the data directories that were kept."""
        if self.state and self.state["reached"] != "done":
            raise Refusal(f"a restore is not finished (reached: {self.state['reached']}): finish it or go back first")
        kept = self._kept()
        if not self.module.check_mode:
            for path in kept:
                shutil.rmtree(path)
        return {"changed": bool(kept), "kept": kept}


def main() -> None:
    """Run the module."""
    probe = {"database": {"type": "str", "default": "postgres"}, "query": {"type": "str", "required": True}}
    steps = ["look", "plan", "aside", "restore", "prove", "mark", "back", "forget", "cleanup"]
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "required": True, "choices": steps},
            "stanza": {"type": "str", "required": True},
            "data_dir": {"type": "path", "required": True},
            "bin_dir": {"type": "path", "required": True},
            "socket_dir": {"type": "path", "default": "/var/run/postgresql"},
            "spool_dir": {"type": "path", "default": "/var/spool/pgbackrest"},
            "state_file": {"type": "path", "default": "/var/lib/postgresql/holdfast-restore.json"},
            "type": {"type": "str", "default": "latest", "choices": list(recovery.KINDS)},
            "target": {"type": "str", "default": ""},
            "label": {"type": "str", "default": ""},
            "timeline": {"type": "int", "default": 0},
            "exclusive": {"type": "bool", "default": False},
            "probes": {"type": "list", "elements": "dict", "default": [], "options": probe},
            "timeout": {"type": "int", "default": 3600},
            "id": {"type": "str", "default": ""},
            "reached": {"type": "str", "choices": ["dropped", "leading", "copied", "done"]},
        },
        required_if=[("step", "mark", ["reached"])],
        supports_check_mode=True,
    )
    try:
        restore = Restore(module)
        result = getattr(restore, module.params["step"])()
    except Refusal as error:
        module.fail_json(msg=f"{module.params['step']}: {error}")
    except OSError as error:
        module.fail_json(
            msg=f"{module.params['step']}: {error.filename}: {error.strerror}: run this again once that is repaired"
        )
    module.exit_json(**{**result, "state": restore.state})


if __name__ == "__main__":
    main()
