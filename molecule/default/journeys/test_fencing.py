# SPDX-License-Identifier: Apache-2.0
"""A silent primary that is powered off costs seconds; a command that is not true costs nothing but the wait for the lease."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator

import pytest
from faults import breakage
from faults.breakage import Wound
from faults.lab import Lab as Victims
from faults.lab import Machine, await_true
from lab_access import Lab, ansible_playbook, changes, eventually, failures, outcome, patroni_leader
from newcomers import Newcomers
from power import CALLER, PowerSwitch

RUNS = int(os.environ.get("HOLDFAST_FENCINGS", "5"))
TTL_SECONDS = 20.0
SPARE_SECONDS = 8.0
PLAYBOOK = "playbooks/tiers/patroni.yml"


def configure(command: list[str]) -> None:
    """Have that command, or none, on every host."""
    done = ansible_playbook(PLAYBOOK, "--extra-vars", json.dumps({"patroni_fencing_command": command}))
    assert done.returncode == 0, failures(done)


@pytest.fixture(scope="module")
def command() -> Iterator[None]:
    """Every host has the command, and none after the tests."""
    victims = Victims()
    victims.await_health(180)
    with PowerSwitch(victims):
        configure([CALLER, "{host}"])
    yield
    victims.await_health(180)
    configure([])
    for machine in victims.machines.values():
        assert machine.answers("systemctl is-active patroni-fencing") != "active"
        machine.shell(f"rm -f {CALLER}")


def journals(machines: list[Machine], since: float) -> str:
    """Return what fencing said on these hosts."""
    age = int(time.time() - since) + 1
    command = f"journalctl --unit patroni-fencing --since -{age}s --output short-precise --no-pager"
    return "\n".join(machine.answers(command) for machine in machines)


def kill_primary(lab: Lab, victims: Victims) -> tuple[float, str, bool]:
    """Kill the primary's host under a client; return how long nobody could write, what was said, and whether it led etcd."""
    old = victims.primary()
    led = victims.etcd_leader() == old
    others = victims.others(old)
    with Newcomers(lab) as newcomers:
        time.sleep(3)
        struck = time.time()
        wound = breakage.host("kill", lambda _lab: old)(victims)
        await_true(wound.happened, 5)
        seconds = newcomers.outage(struck, 90)
        said = journals(others, struck)
        wound.heal()
        victims.await_health(240)
    assert newcomers.lost() == 0
    assert patroni_leader(lab) != old.name
    return seconds, said, led


@pytest.mark.usefixtures("command")
def test_a_killed_host_that_is_seen_without_power_costs_less_than_the_lease(lab: Lab) -> None:
    victims = Victims()
    found = []
    with PowerSwitch(victims) as switch:
        for run in range(RUNS):
            seconds, said, led = kill_primary(lab, victims)
            found.append(seconds)
            print(f"run {run + 1}: {seconds:.1f} s without a write{', it led etcd too' if led else ''}\n{said}")
            assert "its lease is ended" in said
            assert len(switch.orders) == run + 1, "one host, one order"
    print(f"fenced: median {statistics.median(found):.1f} s, worst {max(found):.1f} s of {RUNS}")
    assert statistics.median(found) < TTL_SECONDS / 2


@pytest.mark.usefixtures("command")
def test_a_cut_off_primary_is_powered_off_and_replaced(lab: Lab) -> None:
    victims = Victims()
    old = victims.primary()
    with PowerSwitch(victims) as switch, Newcomers(lab) as newcomers:
        time.sleep(2)
        struck = time.time()
        breakage.cut_off(Victims.primary)(victims)
        seconds = newcomers.outage(struck, 90)
        print(f"cut off and powered off: {seconds:.1f} s without a write")
        assert switch.orders == [old.name]
        assert old.state == "exited"
        breakage.run("docker", "start", old.container)
        victims.await_health(240)
    assert newcomers.lost() == 0


@pytest.mark.usefixtures("command")
def test_a_command_that_lies_is_not_believed_and_the_lease_stays(lab: Lab) -> None:
    victims = Victims()
    old = victims.primary()
    others = victims.others(old)
    wounds: list[Wound] = []

    def lie(_machine: Machine) -> str:
        wounds[0].heal()
        return ""

    timeline = old.shell("psql -XAtq -U postgres -c 'select timeline_id from pg_control_checkpoint()'")
    with PowerSwitch(victims, lie) as switch:
        struck = time.time()
        wounds.append(breakage.cut_off(Victims.primary)(victims))
        said = eventually(lambda: journals(others, struck), lambda text: "is not ended" in text, 30)
        print(said)
        assert f"the command says that {old.name} is off, but its host still answers" in said
        assert switch.orders == [old.name]
    time.sleep(TTL_SECONDS + SPARE_SECONDS)
    assert patroni_leader(lab) == old.name
    assert old.shell("psql -XAtq -U postgres -c 'select timeline_id from pg_control_checkpoint()'") == timeline


@pytest.mark.usefixtures("command")
def test_a_command_that_fails_leaves_it_to_the_lease(lab: Lab) -> None:
    # Whoever failed keeps the others from trying for a while: that of the test before has to be over.
    victims = Victims()
    eventually(
        lambda: victims.etcdctl(victims.primary(), "get --prefix --keys-only /service/lab/fencing/at-work"),
        lambda text: not text.strip(),
        120,
    )
    old = victims.primary()
    others = victims.others(old)
    with PowerSwitch(victims, lambda machine: "the BMC is not there"), Newcomers(lab) as newcomers:
        time.sleep(2)
        struck = time.time()
        wound = breakage.host("kill", lambda _lab: old)(victims)
        seconds = newcomers.outage(struck, 90)
        said = journals(others, struck)
        print(f"not confirmed: {seconds:.1f} s without a write\n{said}")
        assert "the command failed" in said
        assert seconds > TTL_SECONDS / 2
        wound.heal()
        victims.await_health(240)
    assert newcomers.lost() == 0


@pytest.mark.usefixtures("command")
def test_a_second_run_changes_nothing(lab: Lab) -> None:
    done = ansible_playbook(PLAYBOOK, "--extra-vars", json.dumps({"patroni_fencing_command": [CALLER, "{host}"]}))
    assert changes(done) == {}


def test_a_command_that_cannot_be_run_is_refused_before_anything_changes(lab: Lab) -> None:
    done = ansible_playbook(PLAYBOOK, "--extra-vars", json.dumps({"patroni_fencing_command": ["/nowhere/power-off"]}))
    assert done.returncode != 0
    assert "patroni_fencing_command begins with '/nowhere/power-off'" in done.stdout
    assert all(stats["changed"] == 0 for stats in outcome(done)["stats"].values())
