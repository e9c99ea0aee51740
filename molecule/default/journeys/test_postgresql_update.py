# SPDX-License-Identifier: Apache-2.0
"""Rolling updates and restarts of a converged cluster while pgbench writes through the virtual address: it waits, and sees no error.

In this order on one running lab (`make updates`). Witnesses are dpkg, patronictl, etcdctl and /proc, not the playbooks' own words.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import killed_playbook
import newer_packages
import pytest
from lab_access import (
    Lab,
    ansible_playbook,
    changes,
    eventually,
    failures,
    patroni_leader,
    patroni_members,
)
from pgbench_load import Pgbench

PACKAGES = {
    "etcd.service": ["etcd-server", "etcd-client"],
    "patroni.service": ["postgresql-17", "patroni"],
    "haproxy.service": ["haproxy"],
    "pgbouncer.service": ["pgbouncer"],
    "keepalived.service": ["keepalived"],
    "pgbackrest-server.service": ["pgbackrest"],
    "valkey-server@7001.service": ["valkey-server", "valkey-tools"],
}
ALL_PACKAGES = [name for names in PACKAGES.values() for name in names]
UNITS = [*PACKAGES, "valkey-server@7002.service"]
ETCDCTL = (
    "etcdctl --cacert=/etc/ssl/holdfast/ca.crt --cert=/etc/ssl/holdfast/etcd.pem --key=/etc/ssl/holdfast/etcd.pem "
    "--endpoints=https://127.0.0.1:2379 --user=root:%s --write-out=json member list"
)
UPDATE = "playbooks/update.yml"
# Higher than those of an earlier run on the same lab.
NEWER, NEWEST = (f"+holdfast{int(time.time()) + number}" for number in range(2))
KILLS = int(os.environ.get("HOLDFAST_UPDATE_KILLS", "2"))


def containers(lab: Lab) -> list[str]:
    """Return the names of the hosts on the engine, the backup host last."""
    return [host.backend.name for host in (*lab.hosts.values(), lab.backup)]


def programs(lab: Lab) -> dict[str, dict[str, tuple[str, str]]]:
    """Return by host and unit the main process and the inode of its program; PostgreSQL's too. What does not run is process 0."""
    pids = (
        " ".join(f"$(systemctl show --property=MainPID --value {unit})" for unit in UNITS)
        + " $(head -n1 /var/lib/postgresql/*/*/postmaster.pid 2> /dev/null || echo 0)"
    )
    command = f"for pid in {pids}; do echo $pid $(stat -L -c %i /proc/$pid/exe 2> /dev/null || echo 0); done"
    names = [*UNITS, "postgresql"]
    found = {
        name: [line.split() for line in host.check_output(command).splitlines()] for name, host in lab.hosts.items()
    }
    return {
        name: {unit: (row[0], row[1]) for unit, row in zip(names, rows, strict=True)} for name, rows in found.items()
    }


def stale(lab: Lab) -> dict[str, str]:
    """Return by host the processes whose program is no longer on disk, apart from the last ones of what has taken over."""
    names = "etcd|postgres|haproxy|pgbouncer|keepalived|pgbackrest|valkey"
    command = f"ls -l /proc/[0-9]*/exe 2> /dev/null | grep -E '({names}).*deleted' || true"
    return {name: host.check_output(command) for name, host in lab.hosts.items()}


def etcd_members(lab: Lab) -> list[tuple[str, bool]]:
    """Return name and whether it votes of each member, as etcdctl lists them."""
    host = next(iter(lab.hosts.values()))
    told: dict[str, Any] = json.loads(host.check_output(ETCDCTL, lab.secret("etcd_root")))
    return sorted((member["name"], not member.get("isLearner", False)) for member in told["members"])


def all_follow(members: list[dict[str, Any]]) -> bool:
    """Return whether one leads, the others stream, and nothing waits for a restart."""
    states = sorted(member["State"] for member in members)
    return states == ["running"] + ["streaming"] * (len(members) - 1) and not any(
        member.get("Pending restart") for member in members
    )


@pytest.fixture(scope="module", autouse=True)
def tables(lab: Lab) -> Iterator[None]:
    """pgbench's tables; the repository of newer packages is taken away at the end, and that of an interrupted run now."""
    newer_packages.withdraw(containers(lab))
    Pgbench.fill(lab)
    yield
    newer_packages.withdraw(containers(lab))


def test_nothing_newer_changes_nothing(lab: Lab) -> None:
    before = programs(lab)
    assert changes(ansible_playbook(UPDATE)) == {}
    assert programs(lab) == before


@pytest.fixture(scope="module")
def newer(lab: Lab) -> None:
    """Packages of a higher version for every tier, in reach of all hosts."""
    newer_packages.offer(containers(lab), ALL_PACKAGES, NEWER)


@pytest.mark.usefixtures("newer")
def test_check_mode_tells_what_would_restart_and_why(lab: Lab) -> None:
    for container in containers(lab):
        newer_packages.run(container, "apt-get -qq update")
    before, leader = programs(lab), patroni_leader(lab)
    done = ansible_playbook(UPDATE, "--check")
    assert set(changes(done)) >= set(lab.hosts)
    for name in lab.hosts:
        for package in ("etcd-server", "postgresql-17", "haproxy"):
            assert re.search(rf"\b{name}: [^\n]*\b{package} \S+ -> \S+\+holdfast", done.stdout), package
    assert "after a replica has taken over while the pools wait" in done.stdout
    assert programs(lab) == before
    assert patroni_leader(lab) == leader


@pytest.mark.usefixtures("newer")
def test_an_unhealthy_member_stops_it_before_anything_changes(lab: Lab) -> None:
    leader, before = patroni_leader(lab), programs(lab)
    sick = next(name for name in lab.hosts if name != leader)
    lab.hosts[sick].check_output("systemctl stop patroni")
    try:
        done = ansible_playbook(UPDATE, "--tags", "patroni")
        assert done.returncode != 0
        # The first host is asked: it tells of the sick one, or is that itself.
        told = failures(done)
        assert f"{sick} is in state" in told or f"{lab.addresses[sick]}:8008/cluster: no answer" in told, told
        for name, host in lab.hosts.items():
            assert NEWER not in host.check_output("dpkg-query --show postgresql-17 patroni")
            if name != sick:
                assert programs(lab)[name] == before[name]
    finally:
        lab.hosts[sick].check_output("systemctl start patroni")
    assert eventually(lambda: patroni_members(lab), all_follow, 60)


@pytest.mark.usefixtures("newer")
def test_a_whole_update_costs_clients_a_wait_and_nothing_else(lab: Lab) -> None:
    before, leader = programs(lab), patroni_leader(lab)
    begun = time.monotonic()
    with Pgbench(lab, "prepared") as prepared, Pgbench(lab, "simple") as simple:
        done = ansible_playbook(UPDATE)
        took = time.monotonic() - begun
    for load, name in ((prepared, "prepared"), (simple, "simple")):
        print(
            f"update.yml {took:.0f} s, {name}: {load.transactions} transactions, {load.failed} failed, longest {load.longest():.2f} s"
        )
        assert load.failed == 0
        assert load.transactions > 100
    assert set(changes(done)) >= set(lab.hosts)
    for container in containers(lab):
        found = newer_packages.versions(container, ALL_PACKAGES)
        assert found
        assert [name for name, version in found.items() if not version.endswith(NEWER)] == []
    after = programs(lab)
    for name in lab.hosts:
        assert [
            unit for unit in after[name] if after[name][unit][1] == before[name][unit][1] and unit != "patroni.service"
        ] == []
        assert after[name]["patroni.service"][0] != before[name]["patroni.service"][0]
    assert eventually(lambda: stale(lab), lambda found: not any(found.values()), 30) == dict.fromkeys(lab.hosts, "")
    assert patroni_leader(lab) != leader
    assert all_follow(patroni_members(lab))
    assert etcd_members(lab) == [("node1", True), ("node2", True), ("node3", True)]
    assert changes(ansible_playbook(UPDATE)) == {}
    assert changes(ansible_playbook("playbooks/site.yml")) == {}


def test_a_killed_update_goes_on(lab: Lab) -> None:
    """Killed at random points, also between upgrade and restart; the next runs finish, and clients see none of it."""
    newer_packages.offer(containers(lab), ["etcd-server", "etcd-client", "postgresql-17"], NEWEST)
    chance = killed_playbook.chance()
    tags = ["--tags", "etcd,patroni"]
    with Pgbench(lab, "prepared") as prepared:
        for _kill in range(KILLS):
            print(killed_playbook.kill(chance.uniform(20, 80), UPDATE, *tags))
        done = ansible_playbook(UPDATE, *tags)
        assert done.returncode == 0, failures(done)
    print(f"{prepared.transactions} transactions, {prepared.failed} failed, longest {prepared.longest():.2f} s")
    assert prepared.failed == 0
    for name, host in lab.hosts.items():
        shown = host.check_output("dpkg-query --show etcd-server postgresql-17")
        assert shown.count(NEWEST) == 2, name
        assert "deleted" not in stale(lab)[name]
    assert all_follow(patroni_members(lab))
    assert changes(ansible_playbook(UPDATE, *tags)) == {}


@pytest.mark.parametrize("connections", [210, 190, 200], ids=["more", "fewer", "as before"])
def test_settings_that_wait_for_a_restart_are_rolled(lab: Lab, connections: int) -> None:
    """More: replicas have to have them first. Fewer: the primary has to have them first, in place, while the pools wait."""
    setting = ["--extra-vars", json.dumps({"patroni_max_connections": connections}), "--tags", "patroni"]
    assert changes(ansible_playbook("playbooks/site.yml", *setting))
    waiting = eventually(
        lambda: patroni_members(lab), lambda members: all(m.get("Pending restart") for m in members), 30
    )
    assert all(member.get("Pending restart") for member in waiting)
    told = ansible_playbook(UPDATE, "--check", *setting, "--extra-vars", "update_packages=false")
    assert set(changes(told)) >= set(lab.hosts) or "waits for a restart" in told.stdout
    assert f"max_connections 200 -> {connections}" in told.stdout or connections != 210
    before = programs(lab)
    with Pgbench(lab, "prepared") as prepared, Pgbench(lab, "simple") as simple:
        done = ansible_playbook(UPDATE, *setting, "--extra-vars", "update_packages=false")
    for load, name in ((prepared, "prepared"), (simple, "simple")):
        print(f"{name}: {load.transactions} transactions, {load.failed} failed, longest {load.longest():.2f} s")
        assert load.failed == 0
    assert changes(done)
    after = programs(lab)
    for name, host in lab.hosts.items():
        shown = host.check_output("psql -XAt -U postgres -d postgres -c 'SHOW max_connections'")
        assert shown == str(connections), name
        assert after[name]["postgresql"] != before[name]["postgresql"]
        assert after[name]["patroni.service"] == before[name]["patroni.service"]
    assert eventually(lambda: all_follow(patroni_members(lab)), bool, 30)
    assert changes(ansible_playbook(UPDATE, *setting, "--extra-vars", "update_packages=false")) == {}
    assert changes(ansible_playbook("playbooks/site.yml", *setting)) == {}
