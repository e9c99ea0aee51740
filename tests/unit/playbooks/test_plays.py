# SPDX-License-Identifier: Apache-2.0
"""What every play says, whatever the inventory or the ansible.cfg of its user."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from .play_files import ROLES, ROOT, TASK_FILES, Play, Task, content, playbook_files, plays, tasks, tasks_of

# Actions that run on the controller alone, without a connection.
CONTROLLER = {
    "ansible.builtin.add_host",
    "ansible.builtin.assert",
    "ansible.builtin.debug",
    "ansible.builtin.fail",
    "ansible.builtin.group_by",
    "ansible.builtin.meta",
    "ansible.builtin.set_fact",
    "holdfast.persistence.contract",
    "holdfast.persistence.preflight",
    "holdfast.persistence.screen",
}
PLAYS = [
    pytest.param(play, path, id=f"{path.relative_to(ROOT)}: {play['name']}")
    for path in playbook_files()
    for play in plays(path)
]
TASK_SOURCES = [*sorted((ROOT / "playbooks").glob("**/tasks/*.yml")), *sorted((ROOT / "roles").glob("*/tasks/*.yml"))]


def runs_on_hosts(task: Task) -> bool:
    """Return whether a task runs a module on the host that it is for."""
    if task.get("delegate_to") == "localhost":
        return False
    modules = {key for key in task if "." in key}
    return bool(modules - CONTROLLER - TASK_FILES - ROLES)


def escalates_on_the_controller(task: Task) -> bool:
    """Return whether a task on localhost becomes root where the inventory says `ansible_become: true`."""
    return task.get("delegate_to") == "localhost" and task["vars"].get("ansible_become") is not False


def test_there_are_plays() -> None:
    assert len(PLAYS) > 50


@pytest.mark.parametrize(("play", "path"), PLAYS)
def test_plays_go_in_lock_step(play: Play, path: Path) -> None:
    # `strategy = free` in an ansible.cfg would break run_once and one member at a time.
    assert play["strategy"] == "ansible.builtin.linear"


def test_a_host_that_fails_in_the_first_tier_stops_the_run_for_all() -> None:
    (play,) = plays(ROOT / "playbooks/tiers/host.yml")
    assert play["any_errors_fatal"] is True


@pytest.mark.parametrize(("play", "path"), PLAYS)
def test_plays_that_run_on_hosts_escalate(play: Play, path: Path) -> None:
    assert not any(map(runs_on_hosts, tasks_of(play, path))) or play.get("become") is True


@pytest.mark.parametrize(("play", "path"), PLAYS)
def test_no_play_escalates_on_the_controller(play: Play, path: Path) -> None:
    # --limit leaves localhost out, and with it whatever a play there would refuse.
    assert play["hosts"] != "localhost"
    # A variable, since the inventory's ansible_become beats the keyword.
    assert [task["name"] for task in tasks_of(play, path) if escalates_on_the_controller(task)] == []


@pytest.mark.parametrize("path", TASK_SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_task_escalates_on_the_controller(path: Path) -> None:
    assert [task["name"] for task in tasks(content(path)) if escalates_on_the_controller(task)] == []


def test_tasks_inherit_from_their_blocks() -> None:
    block = {"block": [{"name": "in", "a.b.c": {}}], "delegate_to": "localhost", "vars": {"ansible_become": False}}
    (task,) = tasks([block])
    assert not escalates_on_the_controller(task)
    del block["vars"]
    (task,) = tasks([block])
    assert escalates_on_the_controller(task)


def test_new_secrets_never_escalates_on_the_controller(tmp_path: Path) -> None:
    """The inventory says `ansible_become: true`, as inventories/standard; nobody may become root on the controller here."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "one").write_text("old\n")
    inventory = {
        "all": {
            "hosts": {"node1": {"ansible_connection": "local"}},
            "vars": {
                "ansible_become": True,
                "ansible_become_exe": str(tmp_path / "no-sudo-here"),
                "cluster_secrets_dir": str(secrets),
            },
        }
    }
    begin = {"name": "holdfast.persistence.cluster", "tasks_from": "secrets_begin.yml"}
    names = {"__cluster_rotating": ["one"], "__cluster_beginning": ["one"]}
    play = {
        "hosts": "all",
        "gather_facts": False,
        "become": True,
        "tasks": [{"ansible.builtin.include_role": begin, "vars": names}],
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
    (tmp_path / "rotate.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        [
            Path(sys.executable).parent / "ansible-playbook",
            "--inventory",
            tmp_path / "hosts.yml",
            tmp_path / "rotate.yml",
        ],
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            # Root on the controller would not notice.
            "ANSIBLE_BECOME_ALLOW_SAME_USER": "true",
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".link"),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (secrets / "one").read_text() == "old\n"
    assert len((secrets / "one.next").read_text()) == 33
