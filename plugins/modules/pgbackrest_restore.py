#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module with the steps of a restore that happen on one host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pgbackrest_restore
short_description: Take one host through the steps of a restore of a Patroni cluster
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Each call does one step of C(restore_postgresql.yml). A step that is done already does nothing, so that an interrupted restore goes
    on where it stopped.
  - O(state_file) on the restored host records the restore's progress.
  - Steps on one host wait for each other, so that a step that continues after its run was killed meets no second one.
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
  wal_dir:
    description: Folder of the WAL, to which C(pg_wal) in O(data_dir) is a link; empty where WAL is in O(data_dir).
    type: path
    default: ""
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
    description: Backup to begin with. The newest before the target if not given.
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

- name: See how far a restore is, and which data directories are kept
  holdfast.persistence.pgbackrest_restore:
    step: look
    stanza: lab
    data_dir: /var/lib/postgresql/17/lab
    bin_dir: /usr/lib/postgresql/17/bin
"""

RETURN = r"""
state:
  description: The restore on this host - id, target, backup, arguments, and how far it is. Empty where there is none.
  type: dict
  returned: success
  sample:
    id: 20261126T041243Z
    backup: 20261126-041243F
    timeline: 1
    reached: planned
primary:
  description: Whether the data directory is that of a primary, also when PostgreSQL is stopped.
  type: bool
  returned: O(step=look)
  sample: true
obstacle:
  description: Why the data directory can't be moved aside, empty where it can.
  type: str
  returned: O(step=look)
  sample: /var/lib/postgresql/17/main has tablespaces, which this kind of restore cannot move aside
kept:
  description: Data directories that restores have kept.
  type: list
  elements: str
  returned: O(step=look) and O(step=cleanup)
  sample: [/var/lib/postgresql/17/lab.before-20261126T041243Z]
"""

import glob
import json
import os
import pwd
import shutil
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import replace_file
from ansible_collections.holdfast.persistence.plugins.module_utils.files.lock import locked
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest import (
    gaps,
    recovery,
    repository,
    steps,
    wal_place,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

POLL_SECONDS = 0.5
AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig=KILL", "--")
POSITION = "SELECT pg_walfile_name(pg_current_wal_lsn()), pg_current_wal_lsn()"


class Postgresql:
    """This host's PostgreSQL and pgBackRest."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module, self._params = module, module.params
        self._data_dir: str = module.params["data_dir"]
        self._log = f"{module.params['state_file']}.log"

    def run(self, *command: str) -> tuple[int, str, str]:
        """Run a command as postgres; it ends with this module, also where that is killed."""
        return self._module.run_command([*AS_POSTGRES, *command], cwd="/")

    def _pg_ctl(self, *arguments: str) -> tuple[int, str, str]:
        return self.run(os.path.join(self._params["bin_dir"], "pg_ctl"), "-D", self._data_dir, *arguments)

    def pgbackrest(self, *arguments: str) -> tuple[int, str, str]:
        """Run pgBackRest for the stanza."""
        return self.run("pgbackrest", f"--stanza={self._params['stanza']}", *arguments)

    def control(self, folder: str) -> dict[str, str]:
        """Return what pg_controldata says of a data directory. Raises Refusal."""
        program = os.path.join(self._params["bin_dir"], "pg_controldata")
        code, out, err = self.run("env", "LC_ALL=C", program, folder)
        if code:
            raise Refusal(f"{folder} can't be read: {err.strip()}")
        pairs = (line.partition(":") for line in out.splitlines())
        return {name.strip(): value.strip() for name, _colon, value in pairs}

    def gaps(self, backup: repository.Backup) -> list[str]:
        """Return the WAL that is missing behind a backup, in words; pgBackRest itself says ok over such a gap. Raises Refusal."""
        options = (f"--repo={backup.repository}", "--log-level-console=error", "--recurse")
        code, out, err = self.pgbackrest(*options, "repo-ls", f"archive/{self._params['stanza']}")
        if code:
            raise Refusal(f"the archive can't be listed: {err.strip() or out.strip()}")
        return [gap.text for gap in gaps.after(gaps.find(out.splitlines()), backup.start_lsn)]

    def history(self, timeline: int) -> dict[int, int]:
        """Return where a timeline left its ancestors, from the archive. Raises Refusal."""
        if timeline == 1:
            return {}
        folder = tempfile.mkdtemp(prefix="holdfast-")
        try:
            shutil.chown(folder, "postgres")
            path = os.path.join(folder, "history")
            code, out, err = self.pgbackrest("--no-archive-async", "archive-get", f"{timeline:08X}.history", path)
            if code:
                raise Refusal(f"the archive has no history of timeline {timeline}: {err.strip() or out.strip()}")
            with open(path, encoding="utf-8") as stream:
                return recovery.parse_history(stream.read())
        finally:
            shutil.rmtree(folder)

    def runs(self) -> bool:
        """Whether a server runs in the data directory."""
        return self._pg_ctl("status")[0] == 0

    def start(self) -> None:
        """Start PostgreSQL alone; whether it came up shows in prove()."""
        # Without listeners nobody writes; hot_standby would refuse settings smaller than the backed up primary's.
        options = "-c listen_addresses= -c hot_standby=off -c synchronous_standby_names="
        options += f" -c unix_socket_directories={self._params['socket_dir']} -c logging_collector=off"
        if os.path.exists(self._log):
            os.unlink(self._log)
        self._pg_ctl("-W", "-l", self._log, "-o", options, "start")

    def stop(self) -> None:
        """Stop the server, if one runs. Raises Refusal."""
        if self.runs():
            code, out, err = self._pg_ctl("-m", "fast", "-w", "stop")
            if code:
                raise Refusal(f"PostgreSQL does not stop: {out.strip()} {err.strip()}")

    def prove(self) -> dict[str, Any]:
        """Wait for the end of recovery, ask the probes, stop; return what is to be remembered. Raises Refusal."""
        try:
            self._wait_for_end_of_recovery()
            failed = [probe["query"] for probe in self._params["probes"] if self._ask(probe) != "t"]
            if failed:
                raise Refusal(f"recovery ended, but these probes did not return true: {'; '.join(failed)}")
            file, position = self._ask({"database": "postgres", "query": POSITION}).split("|")
            return {"new_timeline": repository.timeline_of(file), "position": position}
        finally:
            self.stop()

    def _psql(self, database: str, query: str) -> tuple[int, str, str]:
        command = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", self._params["socket_dir"]]
        return self.run(*command, "-d", database, "-c", query)

    def _ask(self, probe: Mapping[str, str]) -> str:
        code, out, err = self._psql(probe["database"], probe["query"])
        if code:
            raise Refusal(f"{probe['query']}: {err.strip()}")
        return out.strip()

    def _wait_for_end_of_recovery(self) -> None:
        deadline = time.monotonic() + self._params["timeout"]
        while True:
            code, out, _err = self._psql("postgres", "SELECT pg_is_in_recovery()")
            if code == 0 and out.strip() == "f":
                return
            if not self.runs():
                raise Refusal(f"PostgreSQL stopped before the target was reached. {self._why()}")
            if time.monotonic() > deadline:
                raise Refusal(f"recovery took longer than {self._params['timeout']} s (restore_timeout). {self._why()}")
            time.sleep(POLL_SECONDS)

    def _why(self) -> str:
        with open(self._log, encoding="utf-8", errors="replace") as stream:
            return steps.why_stopped(stream.read())


class Restore:
    """The restore on this host: its state, what stands there, and the hands that carry steps out."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module, self._params = module, module.params
        self._postgresql = Postgresql(module)
        # Behind symbolic links: a restored directory lies where the old one lay.
        data = os.path.realpath(module.params["data_dir"])
        self._places = steps.Places(data, module.params["id"], os.path.join(module.params["spool_dir"], "archive"))
        self._wal_dir = os.path.normpath(module.params["wal_dir"]) if module.params["wal_dir"] else ""
        self._lock()
        self.state = self._load()

    def _lock(self) -> None:
        """Wait for a step that a killed run has left at work here. The kernel lets the lock go with this process."""
        folder = os.path.dirname(self._params["state_file"])
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        if not locked(descriptor, self._params["timeout"]):
            raise Refusal(
                f"a step of an earlier run is still at work after {self._params['timeout']} s (restore_timeout): "
                f"`fuser -v {folder}` shows its process"
            )

    def _load(self) -> dict[str, Any]:
        try:
            with open(self._params["state_file"], encoding="utf-8") as stream:
                return json.load(stream)
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise Refusal(f"{self._params['state_file']} is damaged ({error}): read it, then delete it") from error

    def _save(self, changes: Mapping[str, Any]) -> None:
        self.state = {**self.state, **changes}
        replace_file(self._params["state_file"], json.dumps(self.state, indent=2), mode=0o600)

    def _kept(self) -> tuple[str, ...]:
        data = glob.escape(self._places.data)
        return tuple(sorted(glob.glob(f"{data}.before-*") + glob.glob(f"{data}.restored-*")))

    def look(self) -> dict[str, Any]:
        """Tell what is there. Raises Refusal."""
        folder = self._places.data
        # pgBackRest writes the control file last: without it there is nothing whole.
        if not os.path.exists(os.path.join(folder, "global", "pg_control")):
            before = sorted(glob.glob(f"{glob.escape(self._places.data)}.before-*"))
            folder = before[-1] if before else ""
        state = self._postgresql.control(folder)["Database cluster state"] if folder else ""
        primary = state in ("in production", "shut down")
        return {"changed": False, "primary": primary, "kept": list(self._kept()), "obstacle": self._obstacle()}

    def plan(self) -> dict[str, Any]:
        """Begin a restore, or continue with the same one. Raises Refusal."""
        wish = {key: self._params[key] for key in ("type", "target", "label", "timeline", "exclusive")}
        if steps.goes_on(self.state, wish):
            return {"changed": False}
        target = recovery.parse_target(wish["type"], wish["target"])
        control = self._postgresql.control(self._places.data)
        timeline = wish["timeline"] or int(control["Latest checkpoint's TimeLineID"])
        code, out, err = self._postgresql.pgbackrest("--log-level-console=off", "--output=json", "info")
        if code:
            raise Refusal(f"the repositories can't be read: {err.strip() or out.strip()}")
        chosen = recovery.plan(
            repository.parse(out, self._params["stanza"]),
            target,
            system_identifier=int(control["Database system identifier"]),
            timeline=timeline,
            history=self._postgresql.history(timeline),
            now=time.time(),
            label=wish["label"],
        )
        self.state = {
            "id": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
            "wish": wish,
            "backup": chosen.backup.label,
            "timeline": chosen.timeline,
            "arguments": chosen.arguments(wish["exclusive"]),
            "reached": steps.PLANNED,
            "gaps": self._postgresql.gaps(chosen.backup),
        }
        if not self._module.check_mode:
            self._save({})
        return {"changed": True}

    def step(self, name: str) -> dict[str, Any]:
        """Do what is left of a step, in check mode nothing of it. Raises Refusal, OSError."""
        seen = self._seen()
        left = steps.next_actions(name, self._places, seen, self._params["reached"], dry=self._module.check_mode)
        if not self._module.check_mode:
            for action in left:
                self._do(action)
        return {"changed": bool(left), **({"kept": list(seen.kept)} if name == "cleanup" else {})}

    def _seen(self) -> steps.Seen:
        """Return what stands here."""
        data = os.path.exists(self._places.data)
        return steps.Seen(
            state=self.state,
            data=data,
            aside=bool(self._places.id) and os.path.exists(self._places.aside),
            spool=os.path.exists(self._places.spool),
            running=data and self._postgresql.runs(),
            obstacle=self._obstacle(),
            linked=os.path.islink(self._params["data_dir"]),
            kept=self._kept(),
        )

    def _obstacle(self) -> str:
        tablespaces = os.path.join(self._places.data, "pg_tblspc")
        return steps.obstacle(
            self._places.data,
            mount=os.path.ismount(self._places.data),
            tablespaces=os.path.isdir(tablespaces) and bool(os.listdir(tablespaces)),
            wal=wal_place.target(self._places.data),
            wal_dir=self._wal_dir,
        )

    def _do(self, action: steps.Action) -> None:
        if action.verb == steps.RENAME:
            wal_place.rename(action.path, action.to, self._wal_dir, action.to.removeprefix(self._places.data))
        elif action.verb == steps.REMOVE:
            wal_place.remove(action.path)
        elif action.verb == steps.MAKE:
            os.mkdir(action.path, mode=0o700)
            user = pwd.getpwnam("postgres")
            os.chown(action.path, user.pw_uid, user.pw_gid)
        elif action.verb == steps.FILL:
            self._fill()
        elif action.verb == steps.START:
            self._postgresql.start()
        elif action.verb == steps.PROVE:
            self.state = {**self.state, **self._postgresql.prove()}
        elif action.verb == steps.STOP:
            self._postgresql.stop()
        elif action.verb == steps.SAVE:
            self._save(action.changes)
        elif action.verb == steps.FORGET:
            os.unlink(self._params["state_file"])

    def _fill(self) -> None:
        code, out, err = self._postgresql.pgbackrest("--log-level-console=warn", *self.state["arguments"], "restore")
        if code:
            raise Refusal(f"pgBackRest could not restore {self.state['backup']}: {out.strip()} {err.strip()}")
        if self._wal_dir:
            user = pwd.getpwnam("postgres")
            wal_place.place(self._places.data, self._wal_dir, user.pw_uid, user.pw_gid)


def main() -> None:
    """Run the module."""
    probe = {"database": {"type": "str", "default": "postgres"}, "query": {"type": "str", "required": True}}
    names = ["look", "plan", "aside", "restore", "prove", "mark", "back", "forget", "cleanup"]
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "required": True, "choices": names},
            "stanza": {"type": "str", "required": True},
            "data_dir": {"type": "path", "required": True},
            "wal_dir": {"type": "path", "default": ""},
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
            "reached": {"type": "str", "choices": list(steps.MARKS)},
        },
        required_if=[("step", "mark", ["reached"])],
        supports_check_mode=True,
    )
    try:
        restore = Restore(module)
        own = {"look": restore.look, "plan": restore.plan}
        name = module.params["step"]
        result = own[name]() if name in own else restore.step(name)
    except Refusal as error:
        module.fail_json(msg=f"{module.params['step']}: {error}")
    except OSError as error:
        module.fail_json(
            msg=f"{module.params['step']}: {error.filename}: {error.strerror}: run this again once that is repaired"
        )
    module.exit_json(**{**result, "state": restore.state})


if __name__ == "__main__":
    main()
