# SPDX-License-Identifier: Apache-2.0
"""The module patroni_member on the running lab: told in check mode, done, seen by patronictl, and done no second time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lab_access import Lab, ansible_playbook, eventually, outcome, patroni_leader, patroni_members
from test_postgresql_update import all_follow

LIST = "patronictl -c /etc/patroni/config.yml list"


class Member:
    """Runs the module on one host."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder

    def ask(self, *options: str, **arguments: Any) -> dict[str, Any]:
        """Run it and return its result, failed or not."""
        files = {"ca_cert": "/etc/ssl/holdfast/ca.crt", "client_cert": "/etc/ssl/holdfast/postgresql.pem"}
        task = {
            "holdfast.persistence.patroni_member": {"url": "https://{{ cluster_address }}:8008", **files, **arguments}
        }
        play = {"hosts": self._name, "gather_facts": False, "become": True, "tasks": [task]}
        path = self._folder / "play.json"
        path.write_text(json.dumps([play]))
        done = ansible_playbook(path, *options)
        result: dict[str, Any] = outcome(done)["plays"][0]["tasks"][0]["hosts"][self._name]
        return result


@pytest.fixture
def replica(lab: Lab, tmp_path: Path) -> Member:
    """A member that does not lead."""
    leader = patroni_leader(lab)
    return Member(next(name for name in lab.hosts if name != leader), tmp_path)


def test_pause_and_resume(lab: Lab, replica: Member) -> None:
    host = next(iter(lab.hosts.values()))
    assert replica.ask("--check", state="paused")["changed"]
    assert "Maintenance mode" not in host.check_output(LIST)
    assert replica.ask(state="paused")["member"]["paused"]
    assert "Maintenance mode: on" in host.check_output(LIST)
    assert not replica.ask(state="paused")["changed"]
    assert replica.ask(state="resumed")["changed"]
    assert eventually(lambda: host.check_output(LIST), lambda text: "Maintenance mode" not in text)
    assert not replica.ask(state="resumed")["changed"]


def test_tags_and_back(lab: Lab, replica: Member) -> None:
    host = next(iter(lab.hosts.values()))
    assert replica.ask("--check", state="tagged", tags={"nofailover": True})["changed"]
    assert "nofailover" not in host.check_output(LIST)
    assert replica.ask(state="tagged", tags={"nofailover": True})["member"]["tags"] == {"nofailover": True}
    assert eventually(lambda: host.check_output(LIST), lambda text: "nofailover" in text)
    assert not replica.ask(state="tagged", tags={"nofailover": True})["changed"]
    assert replica.ask(state="tagged", tags={})["changed"]
    assert eventually(lambda: host.check_output(LIST), lambda text: "nofailover" not in text)
    assert ansible_playbook("playbooks/site.yml", "--tags", "patroni", "--check").returncode == 0


def test_restart_reload_and_copy_anew(lab: Lab, replica: Member, tmp_path: Path) -> None:
    before = replica.ask("--check", state="restarted")
    assert before["changed"]
    assert not replica.ask(state="restarted", pending=True)["changed"]
    done = replica.ask(state="restarted")
    assert done["changed"]
    assert done["member"]["started"] > before["member"]["started"]
    assert replica.ask(state="reloaded")["changed"]
    copied = replica.ask(state="reinitialized", wait=180)
    assert copied["changed"]
    assert copied["member"]["started"] > done["member"]["started"]
    assert eventually(lambda: all_follow(patroni_members(lab)), bool, 60)
    refused = Member(patroni_leader(lab), tmp_path).ask(state="reinitialized")
    assert refused["failed"]
    assert "let another member lead first" in refused["msg"]
