# SPDX-License-Identifier: Apache-2.0
"""The guard: a server that takes no connection and a full disk cost seconds, and without the guard they cost the cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from faults import breakage, catalogue
from faults.lab import Lab as Victims
from faults.lab import Machine, await_true
from lab_access import Lab, ansible_playbook, changes, eventually, patroni_leader
from newcomers import Newcomers

SETTINGS = "/etc/holdfast/patroni-guard.json"
# What docs/guard.md promises on top of the looks and the stop: Patroni's failover and the balancers.
FAILOVER_SECONDS = 8.0
SPARE_SECONDS = 4.0
HANG_SECONDS = 40.0


@pytest.fixture
def victims() -> Iterator[Victims]:
    """The lab as what breaks it sees it, whole before and after."""
    found = Victims()
    found.await_health(180)
    yield found
    for machine in found.machines.values():
        machine.shell("systemctl start patroni-guard")
    found.await_health(180)


def settings(machine: Machine) -> dict[str, float]:
    """Return the guard's settings."""
    found: dict[str, float] = json.loads(machine.shell(f"cat {SETTINGS}"))
    return found


def bound(machine: Machine, kind: str) -> float:
    """Return within which time leadership has to be elsewhere, as docs/guard.md says."""
    words = settings(machine)
    look = {"server": words["timeout"], "disk": 0.0}[kind] + words["interval"]
    stop = 0.0 if kind == "server" else words["stop_timeout"]
    return words["failures"] * look + stop + FAILOVER_SECONDS + SPARE_SECONDS


def journal(machine: Machine) -> str:
    """Return what the guard said lately."""
    return machine.shell("journalctl --unit patroni-guard --since -3min --output cat --no-pager | tail -15")


def in_etcd(victims: Victims) -> str:
    """Return the keys of guards."""
    return victims.etcdctl(victims.primary(), "get --prefix --keys-only /service/lab/guard").strip()


def test_a_stopped_postmaster_costs_seconds_and_comes_back_as_a_replica(lab: Lab, victims: Victims) -> None:
    old = victims.primary()
    with Newcomers(lab) as newcomers:
        time.sleep(2)
        struck = time.time()
        wound = breakage.postmaster("STOP")(victims)
        await_true(wound.happened, 5)
        seconds = newcomers.outage(struck, 90)
        print(
            f"postmaster of {old.name} stopped: no new client for {seconds:.1f} s, bound {bound(old, 'server'):.0f} s"
        )
        print(journal(old))
        assert seconds <= bound(old, "server")
        assert patroni_leader(lab) != old.name
        print(f"whole again {victims.await_health(120):.0f} s later")
    assert newcomers.lost() == 0
    assert eventually(lambda: in_etcd(victims), lambda keys: keys == "", 70) == ""


@pytest.mark.parametrize("what", ["wal", "data"])
def test_a_full_disk_costs_seconds_and_its_host_waits_for_room(lab: Lab, victims: Victims, what: str) -> None:
    directory = {"wal": catalogue.POSTGRESQL_WAL, "data": "/var/lib/postgresql/*/*"}[what]
    target = victims.primary()
    with Newcomers(lab) as newcomers:
        wound = breakage.full_disk("patroni", directory, "1g", lambda _lab: target)(victims)
        struck = time.time()
        try:
            await_true(wound.happened, 5)
            leader = eventually(lambda: lab_leader(lab), lambda name: name not in ("", target.name), 90)
            moved = time.time() - struck
            print(
                f"{what} of {target.name} full: {leader} leads after {moved:.1f} s, bound {bound(target, 'disk'):.0f} s"
            )
            time.sleep(3)
            print(f"longest time without a write {newcomers.gap(struck):.1f} s")
            print(journal(target))
            assert leader != target.name
            assert moved <= bound(target, "disk")
            assert newcomers.gap(struck) <= bound(target, "disk")
            # It stays out while there is no room.
            time.sleep(settings(target)["rest"])
            assert target.answers("systemctl is-active patroni") != "active"
        finally:
            wound.heal()
        print(f"whole again {victims.await_health(180):.0f} s after there was room")
    assert newcomers.lost() == 0


def lab_leader(lab: Lab) -> str:
    """Return who leads, empty while nobody does."""
    try:
        return patroni_leader(lab)
    except AssertionError:
        return ""


def test_without_the_guard_a_stopped_postmaster_keeps_the_lead_and_new_clients_wait(lab: Lab, victims: Victims) -> None:
    for machine in victims.machines.values():
        machine.shell("systemctl stop patroni-guard")
    old = victims.primary()
    with Newcomers(lab) as newcomers:
        time.sleep(2)
        struck = time.time()
        wound = breakage.postmaster("STOP")(victims)
        try:
            time.sleep(HANG_SECONDS)
            print(f"without the guard: no new client for {newcomers.gap(struck):.0f} s and on, {lab_leader(lab)} leads")
            assert newcomers.gap(struck) > HANG_SECONDS - 3
            assert lab_leader(lab) == old.name
        finally:
            wound.heal()


def test_a_guard_stays_where_nobody_could_take_over(lab: Lab, victims: Victims) -> None:
    old = victims.primary()
    for machine in victims.others(old):
        machine.shell("systemctl stop patroni")
    try:
        wound = breakage.postmaster("STOP")(victims)
        try:
            said = eventually(lambda: journal(old), lambda text: "keeps the lead" in text, 60)
            print(said)
            assert "keeps the lead" in said
            assert old.answers("systemctl is-active patroni") == "active"
        finally:
            wound.heal()
    finally:
        for machine in victims.others(old):
            machine.shell("systemctl start patroni")


def test_a_second_run_changes_nothing(lab: Lab, victims: Victims) -> None:
    done = ansible_playbook("playbooks/site.yml")
    assert changes(done) == {}
