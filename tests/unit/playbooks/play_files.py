# SPDX-License-Identifier: Apache-2.0
"""The plays of the playbooks and the tasks that they lead to. Reads files, runs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
PLAYBOOKS = ROOT / "playbooks"

IMPORT_PLAYBOOK = "ansible.builtin.import_playbook"
TASK_SECTIONS = ("pre_tasks", "tasks", "post_tasks", "handlers")
BLOCK_SECTIONS = ("block", "rescue", "always")
TASK_FILES = {"ansible.builtin.import_tasks", "ansible.builtin.include_tasks"}
ROLES = {"ansible.builtin.import_role", "ansible.builtin.include_role"}

Task = dict[str, Any]
Play = dict[str, Any]


@cache
def content(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a playbook or of a file of tasks."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) or []


def playbook_files() -> list[Path]:
    """Return every file of plays: those that an operator calls and those that they import."""
    return sorted(path for path in PLAYBOOKS.rglob("*.yml") if path.parent.name not in {"tasks", "specs"})


def plays(path: Path) -> list[Play]:
    """Return a file's own plays, without those that it imports."""
    return [entry for entry in content(path) if IMPORT_PLAYBOOK not in entry]


def tasks(entries: list[Task], inherited: Task | None = None) -> Iterator[Task]:
    """Yield tasks out of their blocks, with the keywords and variables of the blocks around them."""
    for entry in entries:
        whole = {**(inherited or {}), **entry}
        whole["vars"] = {**(inherited or {}).get("vars", {}), **entry.get("vars", {})}
        sections = [key for key in BLOCK_SECTIONS if key in entry]
        around = {key: value for key, value in whole.items() if key not in {*BLOCK_SECTIONS, "name"}}
        for section in sections:
            yield from tasks(entry[section], around)
        if not sections:
            yield whole


def tasks_of(play: Play, path: Path) -> Iterator[Task]:
    """Yield every task that a play leads to: its own, those of included files and of its roles."""
    own = [task for section in TASK_SECTIONS for task in tasks(play.get(section, []))]
    found = {file for task in own for file in _leads_to(task, path)}
    found |= {file for role in play.get("roles", []) for file in _of_role({"name": role["role"]})}
    yield from own
    waiting, seen = list(found), set(found)
    while waiting:
        file = waiting.pop()
        for task in tasks(content(file)):
            yield task
            new = set(_leads_to(task, file)) - seen
            seen |= new
            waiting += new


def _leads_to(task: Task, path: Path) -> Iterator[Path]:
    """Yield the files of tasks that a task of a file includes; all of a folder where a variable names them."""
    for module in TASK_FILES & task.keys():
        name = task[module] if isinstance(task[module], str) else task[module]["file"]
        yield from path.parent.glob("*.yml") if "{{" in name else [path.parent / name]
    for module in ROLES & task.keys():
        yield from _of_role(task[module])


def _of_role(which: dict[str, Any]) -> Iterator[Path]:
    folder = ROOT / "roles" / which["name"].rpartition(".")[2] / "tasks"
    name = which.get("tasks_from", "main.yml")
    yield from folder.glob("*.yml") if "{{" in name else [folder / name]
