#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that keeps backup jobs as systemd timers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_schedule
short_description: Keep declared backup jobs as systemd timers
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Each job becomes a service and a timer, C(holdfast-backup-<name>), which call the program of the role
    P(holdfast.persistence.backup#role). They run without any controller.
  - Every job is judged before anything is written, its calendar also by C(systemd-analyze calendar) of the host.
  - Units of jobs that are no longer declared are stopped and removed. A run that is under way ends by itself.
options:
  jobs:
    description: The jobs of this host. None removes all.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of its own, up to 41 lower case letters, digits, C(-) and C(_).
        type: str
        required: true
      kind:
        description: What it does.
        type: str
        choices: [pgbackrest, logical, valkey, events, prune, upload, drill, metrics]
        required: true
      calendar:
        description: When it runs, as systemd.time(7) says it, for example V(Sun 01:30).
        type: str
        required: true
      where:
        description:
          - Whether it runs on this host always, or only while Patroni says that its PostgreSQL is the primary, or the first of the
            replicas.
        type: str
        choices: [here, primary, replica]
        default: here
      delay:
        description: Longest random delay of each run, in seconds.
        type: int
        default: 300
      persistent:
        description: Whether a run that was missed, because the host was down, is made up for.
        type: bool
        default: true
      nice:
        description: Niceness of its processes.
        type: int
        default: 10
      io_class:
        description: Scheduling class of its input and output; V(none) leaves it.
        type: str
        choices: [best-effort, idle, realtime, none]
        default: best-effort
      io_priority:
        description: Priority in that class, V(7) is the lowest.
        type: int
        default: 7
      rate:
        description: Bytes a second it may write to O(writable), for example V(20M). V(0) for no limit.
        type: str
        default: "0"
      timeout:
        description: Seconds after which a run is ended.
        type: int
        default: 86400
      wait:
        description: Seconds that it waits for another job of the same resource.
        type: int
        default: 3600
      options:
        description: What its kind understands.
        type: dict
        default: {}
  program:
    description: Path of the program that runs jobs, a file or a folder that Python runs.
    type: path
    default: /usr/local/lib/holdfast/programs/holdfast-backup
  jobs_file:
    description: Path of the file that tells the program of its jobs.
    type: path
    default: /etc/holdfast/backup-jobs.json
  writable:
    description: Folder that O(jobs[].rate) is about. Empty where there is none.
    type: str
    default: ""
  unit_dir:
    description: Folder of the units.
    type: path
    default: /etc/systemd/system
attributes:
  check_mode:
    description: Judges every job and says what would change.
    support: full
  diff_mode:
    description: Shows the lines of units and of the file of jobs that change.
    support: full
"""

EXAMPLES = r"""
- name: Back up every night
  holdfast.persistence.backup_schedule:
    jobs:
      - name: full
        kind: pgbackrest
        calendar: Sun 01:30
        options: {type: full}
      - name: differential
        kind: pgbackrest
        calendar: Mon..Sat 01:30
        options: {type: diff}

- name: Say which timers would change
  holdfast.persistence.backup_schedule:
    jobs: "{{ backup_jobs }}"
  check_mode: true
  diff: true
"""

RETURN = r"""
added:
  description: Jobs that were not there before.
  type: list
  elements: str
  returned: success
  sample: [differential]
changed_jobs:
  description: Jobs whose units differed or did not run.
  type: list
  elements: str
  returned: success
  sample: [full]
removed:
  description: Jobs whose units were removed.
  type: list
  elements: str
  returned: success
  sample: [hourly]
"""

import contextlib
import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import collect, jobs
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.jobs import Job
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import (
    make_folders,
    read_text,
    replace_file,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.programs.layout import path_of
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


def judge(module: AnsibleModule) -> list[Job]:
    """Return the declared jobs; one that can't be used ends the module before anything is written."""
    try:
        wanted = jobs.parse(module.params["jobs"])
    except Refusal as error:
        module.fail_json(msg=f"backup_jobs: {error}. Nothing was changed.")
    for job in wanted:
        code, _out, err = module.run_command(["systemd-analyze", "calendar", "--", job.calendar])
        if code:
            module.fail_json(
                msg=f"backup_jobs: job {job.name}: calendar {job.calendar!r} is refused by systemd: {err.strip()}. Nothing was changed."
            )
    return wanted


def present(unit_dir: str) -> dict[str, str]:
    """Return the units of jobs that are there, content by path. Units of that name that others wrote are not taken."""
    found = {}
    for name in sorted(os.listdir(unit_dir)):
        if name.startswith(jobs.PREFIX) and name.endswith((".service", ".timer")):
            text = read_text(os.path.join(unit_dir, name))
            if text.startswith(jobs.MARK):
                found[os.path.join(unit_dir, name)] = text
    return found


def job_of(path: str) -> str:
    """Return the job whose unit a path is."""
    return os.path.basename(path).removeprefix(jobs.PREFIX).rsplit(".", 1)[0]


def resting(module: AnsibleModule, names: list[str]) -> list[str]:
    """Return the jobs whose timer is not enabled, or does not run."""
    found = []
    for name in names:
        timer = f"{jobs.PREFIX}{name}.timer"
        states = [module.run_command(["systemctl", verb, "--quiet", timer])[0] for verb in ("is-enabled", "is-active")]
        if any(states):
            found.append(name)
    return found


def systemctl(module: AnsibleModule, *arguments: str) -> None:
    """Run systemctl; failure ends the module."""
    code, out, err = module.run_command(["systemctl", *arguments])
    if code:
        module.fail_json(msg=f"systemctl {' '.join(arguments)}: {(err or out).strip()}")


def since(path: str, wanted: list[Job]) -> dict[str, float]:
    """Return when each job was first declared, for new ones the time of now."""
    try:
        known = {name: entry["since"] for name, entry in collect.declared_jobs(path).items()}
    except (Refusal, KeyError, TypeError):
        # A file that is no such file is written anew.
        known = {}
    return {job.name: known.get(job.name, float(int(time.time()))) for job in wanted}


def act(module: AnsibleModule, wishes: dict[str, str], removed: list[str], started: list[str]) -> None:
    """Write what differs, remove what is not wanted, have the timers running."""
    for name in removed:
        timer = f"{jobs.PREFIX}{name}.timer"
        # A timer whose file a killed run removed already is known to systemd until the reload.
        module.run_command(["systemctl", "disable", "--now", timer])
        for kind in ("timer", "service"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(module.params["unit_dir"], f"{jobs.PREFIX}{name}.{kind}"))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"/var/lib/systemd/timers/stamp-{timer}")
    for path, text in wishes.items():
        make_folders(os.path.dirname(path))
        if read_text(path) != text:
            replace_file(path, text, mode=0o644)
    systemctl(module, "daemon-reload")
    for name in started:
        systemctl(module, "enable", f"{jobs.PREFIX}{name}.timer")
        # A timer that runs keeps its old calendar until it is started anew.
        systemctl(module, "restart", f"{jobs.PREFIX}{name}.timer")


def run(module: AnsibleModule) -> dict[str, object]:
    """Compare, act where not in check mode, return the result of the module."""
    params = module.params
    wanted = judge(module)
    found = present(params["unit_dir"])
    wishes = {
        os.path.join(params["unit_dir"], os.path.basename(path)): text
        for path, text in jobs.units(wanted, params["program"], params["writable"]).items()
    }
    wishes[params["jobs_file"]] = jobs.dump(wanted, since(params["jobs_file"], wanted))
    before = {path: read_text(path) for path in {*wishes, *found}}
    differing = [path for path, text in wishes.items() if before[path] != text]
    names = [job.name for job in wanted]
    removed = sorted({job_of(path) for path in found} - set(names))
    units = {job_of(path) for path in differing if path != params["jobs_file"]}
    known = {job_of(path) for path in found}
    started = sorted({*units, *resting(module, [name for name in names if name in known])})
    changed = bool(differing or removed or started)
    if changed and not module.check_mode:
        act(module, wishes, removed, started)
    gone = [path for path in found if path not in wishes]
    return {
        "changed": changed,
        "added": sorted(set(names) - known),
        "changed_jobs": [name for name in started if name in known],
        "removed": removed,
        "diff": [
            {"before_header": path, "after_header": path, "before": before[path], "after": wishes.get(path, "")}
            for path in [*differing, *gone]
        ],
    }


def main() -> None:
    """Run the module."""
    options = {
        "name": {"type": "str", "required": True},
        "kind": {"type": "str", "choices": list(jobs.KINDS), "required": True},
        "calendar": {"type": "str", "required": True},
        "where": {"type": "str", "choices": list(jobs.PLACES), "default": "here"},
        "delay": {"type": "int", "default": 300},
        "persistent": {"type": "bool", "default": True},
        "nice": {"type": "int", "default": 10},
        "io_class": {"type": "str", "choices": list(jobs.IO_CLASSES), "default": "best-effort"},
        "io_priority": {"type": "int", "default": 7},
        "rate": {"type": "str", "default": "0"},
        "timeout": {"type": "int", "default": 86400},
        "wait": {"type": "int", "default": 3600},
        "options": {"type": "dict", "default": {}},
    }
    module = AnsibleModule(
        argument_spec={
            "jobs": {"type": "list", "elements": "dict", "required": True, "options": options},
            "program": {"type": "path", "default": path_of("holdfast-backup")},
            "jobs_file": {"type": "path", "default": "/etc/holdfast/backup-jobs.json"},
            "writable": {"type": "str", "default": ""},
            "unit_dir": {"type": "path", "default": "/etc/systemd/system"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except OSError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
