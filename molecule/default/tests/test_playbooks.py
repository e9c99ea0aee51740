# SPDX-License-Identifier: Apache-2.0
"""The playbooks on a finished lab: a second run and check mode change nothing and restart nothing."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from .conftest import ROOT, Lab, ansible_playbook, outcome

SERVICES = "etcd patroni pgbouncer haproxy keepalived valkey-server@7001 valkey-server@7002"


def invocations(lab: Lab) -> dict[str, str]:
    """Return what changes with every start of a service, on every host, the processes of PostgreSQL included."""
    command = f"systemctl show --property=Id,InvocationID,MainPID {SERVICES}; stat -c %Y /var/lib/postgresql/*/*/postmaster.pid"
    return {name: host.check_output(command) for name, host in lab.hosts.items()}


def recap(done: subprocess.CompletedProcess[str], lab: Lab) -> dict[str, dict[str, int]]:
    """Return Ansible's own count of a run that has succeeded."""
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    stats: dict[str, dict[str, int]] = outcome(done)["stats"]
    assert set(stats) >= set(lab.hosts)
    return stats


def changed_tasks(done: subprocess.CompletedProcess[str]) -> list[tuple[str, str, Any]]:
    """Return host, task and diff of whatever reports a change."""
    return [
        (host, task["task"]["name"], result.get("diff"))
        for play in outcome(done)["plays"]
        for task in play["tasks"]
        for host, result in task["hosts"].items()
        if result.get("changed")
    ]


@pytest.mark.parametrize("options", [["--check", "--diff"], []], ids=["check-mode", "second-run"])
def test_site_changes_nothing_more(lab: Lab, options: list[str]) -> None:
    before = invocations(lab)
    done = ansible_playbook(ROOT / "playbooks/site.yml", *options)
    counts = recap(done, lab)
    assert changed_tasks(done) == []
    for host, count in counts.items():
        assert (count["changed"], count["failures"], count["unreachable"]) == (0, 0, 0), host
        # The proof is worth nothing if the run left everything out.
        assert host not in lab.hosts or count["ok"] > 20, count
    assert invocations(lab) == before


def test_check_finds_nothing(lab: Lab) -> None:
    done = ansible_playbook(ROOT / "playbooks/check.yml")
    recap(done, lab)
    assert changed_tasks(done) == []


def test_destroy_refuses_without_the_name_of_the_cluster(lab: Lab) -> None:
    before = invocations(lab)
    for arguments in ([], ["--extra-vars", "confirm_destroy=another"]):
        done = ansible_playbook(ROOT / "playbooks/destroy.yml", *arguments)
        assert done.returncode != 0
        assert "confirm_destroy" in done.stdout
    assert invocations(lab) == before
