# SPDX-License-Identifier: Apache-2.0
"""A converged cluster grows by a host in every tier, gives one up again, and gets a destroyed one back, under pgbench.

In this order on one running lab (`make members`). Witnesses are patronictl, etcdctl and the balancers, not the playbooks' own words.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from lab_access import (
    INVENTORY,
    ROOT,
    Lab,
    ansible_playbook,
    changes,
    eventually,
    failures,
    outcome,
    patroni_leader,
    patroni_members,
)
from pgbench_load import Pgbench
from test_postgresql_update import all_follow, etcd_members

GROWN: list[str | Path] = ["--inventory", Path(__file__).parent / "converged_grown"]
# After node4 was removed and taken out of the inventory: the backup host is still a member of etcd.
SHRINKING: list[str | Path] = ["--inventory", Path(__file__).parent / "converged_shrinking"]
ENGINE_NAME = f"{os.environ.get('HOLDFAST_LAB', 'holdfast')}-%s"
SITE, REMOVE, REPLACE = "playbooks/site.yml", "playbooks/remove_node.yml", "playbooks/replace_node.yml"


def on(name: str, *command: str) -> str:
    """Run a command on a host, also one that the lab's inventory does not have."""
    done = subprocess.run(["docker", "exec", ENGINE_NAME % name, *command], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def names(lab: Lab) -> list[str]:
    """Return the members that patronictl lists."""
    return sorted(member["Member"] for member in patroni_members(lab))


def votes(lab: Lab) -> list[str]:
    """Return the members of etcd; AssertionError where one is a learner."""
    members = etcd_members(lab)
    assert all(voting for _name, voting in members), members
    return [name for name, _voting in members]


def servers(name: str) -> set[str]:
    """Return where a balancer's HAProxy may send read-write connections."""
    told = on(
        name, "sh", "-c", "echo 'show servers state read_write_members' | socat - /run/haproxy/admin.sock || true"
    )
    if not told:
        told = on(
            name,
            "sh",
            "-c",
            "grep -A99 '^backend read_write_members' /etc/haproxy/haproxy.cfg | grep -m9 '    server '",
        )
        return {line.split()[1] for line in told.splitlines()}
    return {line.split()[3] for line in told.splitlines()[2:]}


def refused(playbook: str, *options: str | Path) -> str:
    """Run a playbook that has to refuse, before anything changes; return what it said."""
    done = ansible_playbook(playbook, *options)
    assert done.returncode != 0, done.stdout[-3000:]
    assert {host: count["changed"] for host, count in outcome(done)["stats"].items() if count["changed"]} == {}
    return str(done.stdout)


def check(*options: str | Path) -> None:
    """Run check.yml, which has to find nothing critical; AssertionError with what it found."""
    done = ansible_playbook(*options, "playbooks/check.yml")
    found = re.findall(r"CRITICAL[^\"]*|    found[^\"]*", done.stdout)
    assert done.returncode == 0, found or failures(done)
    assert changes(done) == {}


@pytest.fixture(scope="module", autouse=True)
def tables(lab: Lab) -> None:
    """pgbench's tables, and a fourth host that stands."""
    Pgbench.fill(lab)
    done = ansible_playbook("molecule/default/create.yml", *GROWN)
    assert done.returncode == 0, failures(done)


def test_what_would_break_a_tier_is_refused(lab: Lab) -> None:
    before = (names(lab), votes(lab))
    assert "remove_node_host is 'node9'" in refused(REMOVE, "--extra-vars", "remove_node_host=node9")
    assert "1 more may be lost" in refused(REMOVE, "--extra-vars", "remove_node_host=node3")
    leader = patroni_leader(lab)
    two = json.dumps({"remove_node_host": leader, "patroni_synchronous_node_count": 2})
    assert "patroni_synchronous_node_count" in refused(REMOVE, "--extra-vars", two, "--tags", "patroni")
    dead = json.dumps({"remove_node_host": "node3", "remove_node_dead": True})
    assert "still answers" in refused(REMOVE, "--extra-vars", dead, "--tags", "patroni")
    assert "last host of the group backup" in refused(REMOVE, "--extra-vars", "remove_node_host=backup1")
    assert "still answers" in refused(REPLACE, "--extra-vars", "replace_node_host=node3")
    assert (names(lab), votes(lab)) == before


def test_a_host_joins_every_tier(lab: Lab) -> None:
    begun = time.monotonic()
    with Pgbench(lab, "prepared") as prepared, Pgbench(lab, "simple") as simple:
        done = ansible_playbook(*GROWN, SITE)
        assert done.returncode == 0, failures(done)
    print(f"grown in {time.monotonic() - begun:.0f} s; longest {prepared.longest():.2f} s, {simple.longest():.2f} s")
    assert prepared.failed == simple.failed == 0
    assert names(lab) == ["node1", "node2", "node3", "node4"]
    assert all_follow(patroni_members(lab))
    assert votes(lab) == ["backup1", "node1", "node2", "node3", "node4"]
    for name in ("node1", "node4"):
        assert servers(name) == {"node1", "node2", "node3", "node4"}
    assert changes(ansible_playbook(*GROWN, SITE)) == {}
    check(*GROWN)


def test_the_primary_is_removed_without_an_error(lab: Lab) -> None:
    done = ansible_playbook(*GROWN, "playbooks/switchover.yml", "--extra-vars", "switchover_candidate=node4")
    assert done.returncode == 0, failures(done)
    assert patroni_leader(lab) == "node4"
    begun = time.monotonic()
    with Pgbench(lab, "prepared") as prepared, Pgbench(lab, "simple") as simple:
        done = ansible_playbook(*GROWN, REMOVE, "--extra-vars", "remove_node_host=node4")
        assert done.returncode == 0, failures(done)
    print(f"removed in {time.monotonic() - begun:.0f} s; longest {prepared.longest():.2f} s, {simple.longest():.2f} s")
    assert prepared.failed == simple.failed == 0
    assert names(lab) == ["node1", "node2", "node3"]
    assert votes(lab) == ["backup1", "node1", "node2", "node3"]
    assert servers("node1") == {"node1", "node2", "node3"}
    assert (
        on(
            "node4",
            "sh",
            "-c",
            "ls -d /var/lib/etcd/lab /var/lib/postgresql/*/lab /etc/ssl/holdfast 2> /dev/null || true",
        )
        == ""
    )
    done = ansible_playbook(*SHRINKING, REMOVE, "--extra-vars", "remove_node_host=backup1", "--tags", "etcd")
    assert done.returncode == 0, failures(done)
    assert votes(lab) == ["node1", "node2", "node3"]
    # The tags left out those who use etcd.
    done = ansible_playbook(SITE)
    assert done.returncode == 0, failures(done)
    assert changes(ansible_playbook(SITE)) == {}
    check()


def test_a_destroyed_host_is_replaced_by_one_command(lab: Lab) -> None:
    """The primary's host, which also held etcd, Valkey and a balancer."""
    lost = patroni_leader(lab)
    left = next(name for name in lab.hosts if name != lost)
    subprocess.run(["docker", "rm", "--force", ENGINE_NAME % lost], check=True, capture_output=True)
    done = ansible_playbook("molecule/default/create.yml", *GROWN)
    assert done.returncode == 0, failures(done)

    def leads() -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = json.loads(
            on(left, "patronictl", "-c", "/etc/patroni/config.yml", "list", "-f", "json")
        )
        return [member for member in told if member["Role"] == "Leader" and member["State"] == "running"]

    assert eventually(leads, lambda found: bool(found) and found[0]["Member"] != lost, 60)
    begun = time.monotonic()
    with Pgbench(lab, "prepared") as prepared, Pgbench(lab, "simple") as simple:
        done = ansible_playbook(REPLACE, "--extra-vars", f"replace_node_host={lost}")
        took = time.monotonic() - begun
        assert done.returncode == 0, failures(done)
    print(f"replaced in {took:.0f} s; longest {prepared.longest():.2f} s, {simple.longest():.2f} s")
    assert prepared.failed == simple.failed == 0
    assert names(lab) == ["node1", "node2", "node3"]
    assert all_follow(patroni_members(lab))
    assert votes(lab) == ["node1", "node2", "node3"]
    check()
    assert changes(ansible_playbook(SITE)) == {}


def test_the_lab_is_as_it_was(lab: Lab) -> None:
    subprocess.run(["docker", "rm", "--force", ENGINE_NAME % "node4"], check=True, capture_output=True)
    assert INVENTORY == ROOT / "inventories/lab"
    assert names(lab) == ["node1", "node2", "node3"]
