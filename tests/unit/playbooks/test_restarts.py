# SPDX-License-Identifier: Apache-2.0
"""No change of a setting takes a service away on all hosts at once: who restarts a unit does it on one host after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .play_files import PLAYBOOKS, ROOT, Task, content, playbook_files, plays, tasks

UNIT = "holdfast.persistence.unit"
SYSTEMD = "ansible.builtin.systemd_service"

# Units that may restart on all hosts at the same moment, each with what goes on meanwhile.
NOBODY_MISSES = {
    "chrony.service": "the kernel's clock runs on as it was last corrected",
    "holdfast-firewall.service": "it loads rules and ends; connections are not its own",
    "pgbackrest-server.service": "PostgreSQL asks again until a segment has arrived, and a restart lets sessions end",
}
# Files in which a host restarts only while all others wait: the loop around them, or their play, names one host a turn.
ONE_AT_A_TIME = {
    "roles/etcd/tasks/join_member.yml": "members that were never part of the cluster, one of them a turn",
    "roles/etcd/tasks/update_member.yml": "a loop over the members",
    "roles/patroni/tasks/update_member.yml": "a loop over the members, replicas first",
    "roles/valkey/tasks/restart_instance.yml": "a loop over the instances, replicas first",
    "playbooks/tasks/update_keepalived.yml": "a loop over the balancers",
}
SOURCES = [*sorted((ROOT / "roles").glob("*/tasks/*.yml")), *sorted((PLAYBOOKS / "tasks").glob("*.yml"))]


def all_tasks() -> list[tuple[str, Task]]:
    """Return every task with the file that it stands in."""
    found = [(path, task) for path in SOURCES for task in tasks(content(path))]
    found += [
        (path, task) for path in playbook_files() for play in plays(path) for task in tasks(play.get("tasks", []))
    ]
    return [(str(path.relative_to(ROOT)), task) for path, task in found]


def restarts() -> list[Any]:
    """Return the tasks that restart a unit: where a file changed, or always."""
    found = []
    for place, task in all_tasks():
        module = UNIT if task.get(UNIT, {}).get("restart_on") else SYSTEMD
        options = task.get(module, {})
        if options.get("restart_on") or options.get("state") == "restarted":
            found.append(pytest.param(place, task, options["name"], id=f"{place}: {task['name']}"))
    return found


def test_there_are_restarts() -> None:
    names = {case.values[2] for case in restarts()}
    assert {"etcd.service", "keepalived.service", "patroni.service", "pgbouncer.service", *NOBODY_MISSES} <= names


@pytest.mark.parametrize(("place", "task", "unit"), restarts())
def test_a_service_restarts_on_one_host_after_the_other(place: str, task: Task, unit: str) -> None:
    assert task.get("throttle") == 1 or unit in NOBODY_MISSES or place in ONE_AT_A_TIME


@pytest.mark.parametrize("unit", NOBODY_MISSES)
def test_what_may_restart_everywhere_is_a_unit_that_something_restarts(unit: str) -> None:
    assert unit in {case.values[2] for case in restarts()}


@pytest.mark.parametrize("place", ONE_AT_A_TIME)
def test_files_of_one_host_a_turn_are_included_by_a_loop_or_a_condition(place: str) -> None:
    """The task that leads there says which host's turn it is."""
    name = Path(place).name
    callers = [
        task
        for _place, task in all_tasks()
        for key in ("ansible.builtin.include_tasks", "ansible.builtin.import_tasks")
        if (task.get(key) if isinstance(task.get(key), str) else (task.get(key) or {}).get("file", "")).endswith(name)
    ]
    callers += [
        task
        for _place, task in all_tasks()
        if (task.get("ansible.builtin.include_role") or {}).get("tasks_from") == name
    ]
    assert callers
    assert all("loop" in task or "when" in task for task in callers)


def test_a_balancer_that_needs_a_new_process_is_never_stopped() -> None:
    (options,) = [
        task[UNIT]
        for _place, task in all_tasks()
        if task.get(UNIT, {}).get("name") == "pgbouncer.service" and task[UNIT].get("restart_on")
    ]
    assert options["restart_by"] == ["{{ __pgbouncer_library }}/pgbouncer-takeover"]


def test_programs_beside_patroni_may_end_at_any_moment() -> None:
    """They restart everywhere at once where their settings change, so each of them is one that Patroni does without."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert "Each can end at\nany moment: Patroni then does the same, later." in page
