# SPDX-License-Identifier: Apache-2.0
"""Planned switchovers while applications write: they wait, and see no error."""

from __future__ import annotations

import os
import statistics
import time

import killed_playbook
import pytest
from lab_access import Lab, ansible_playbook, eventually, failures, outcome, patroni_leader
from pgbench import Pgbench
from sql_load import Load

RUNS = int(os.environ.get("HOLDFAST_SWITCHOVERS", "20"))
KILLS = int(os.environ.get("HOLDFAST_SWITCHOVER_KILLS", "10"))
HOLD_SECONDS = 15
SPARE_SECONDS = 10
PLAYBOOK = "playbooks/switchover.yml"


def last_message(playbook: dict[str, object]) -> dict[str, object]:
    """Return what the playbook told at its end."""
    for task in reversed(playbook["plays"][-1]["tasks"]):  # type: ignore[index]
        for result in task["hosts"].values():
            if isinstance(result.get("msg"), dict):
                return dict(result["msg"])
    raise AssertionError("the playbook told nothing")


def pools(lab: Lab) -> dict[str, str]:
    """Return the state of every PgBouncer, as its console has it."""
    command = "runuser -u postgres -- psql -XAt -h /run/postgresql -p 6432 -U pgbouncer -c 'SHOW STATE' pgbouncer"
    return {name: host.check_output(command) for name, host in lab.hosts.items()}


def all_serve(states: dict[str, str]) -> bool:
    """Return whether no PgBouncer is paused."""
    return all("paused|no" in state for state in states.values())


@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "simple"])
def test_switchovers_cost_clients_a_wait_and_nothing_else(lab: Lab, prepared: bool) -> None:
    stalls, benched = [], []
    # On a host of the lab, through the network: this machine has no PostgreSQL.
    bench = Pgbench(lab, next(iter(lab.hosts.values())), "prepared" if prepared else "simple")
    with bench, Load(lab, prepared=prepared) as load:
        for _run in range(RUNS):
            before, begun = patroni_leader(lab), time.time()
            done = ansible_playbook(PLAYBOOK)
            assert done.returncode == 0, failures(done)
            told = last_message(outcome(done))
            time.sleep(1)
            stalls.append(load.longest(begun, time.time()))
            benched.append(bench.longest(begun))
            print(
                f"{before} -> {told['leader']}: stall {stalls[-1]:.2f} s, pgbench {benched[-1]:.2f} s, pauses {told['pause_seconds']}, "
                f"Patroni {told['switchover_seconds']} s, load {os.getloadavg()[0]:.0f}, by {set(told['resumed_by'].values())}",  # type: ignore[attr-defined]
                flush=True,
            )
            assert told["previous_leader"] == before
            assert told["leader"] == patroni_leader(lab) != before
            assert load.errors == []
    print(
        f"{RUNS} switchovers, {load.transactions} transactions, stall median {statistics.median(stalls):.2f} s, "
        f"worst {max(stalls):.2f} s; pgbench: {bench.report}, stall median {statistics.median(benched):.2f} s"
    )
    assert load.lost() == 0
    assert load.transactions > 0
    assert max(stalls) < HOLD_SECONDS
    assert bench.report is not None
    assert (bench.report.failed, bench.report.errors) == (0, "")
    assert bench.report.recorded >= bench.report.transactions > 0


def test_a_killed_playbook_leaves_pools_that_serve(lab: Lab) -> None:
    chance = killed_playbook.chance()
    with Load(lab, prepared=True) as load:
        for _kill in range(KILLS):
            print(killed_playbook.kill(chance.uniform(2, 12), PLAYBOOK))
            killed = time.time()
            states = eventually(lambda: pools(lab), all_serve, HOLD_SECONDS + SPARE_SECONDS)
            print(f"pools serve {time.time() - killed:.1f} s later")
            assert all_serve(states), states
            for host in lab.hosts.values():
                left = eventually(
                    lambda host=host: host.run("systemctl is-active holdfast-pgbouncer-hold.service").stdout.strip(),
                    lambda state: state == "inactive",
                    60,
                )
                assert left == "inactive"
    assert load.errors == []
    assert load.lost() == 0


def test_check_mode_names_the_next_leader_and_changes_nothing(lab: Lab) -> None:
    before = patroni_leader(lab)
    done = ansible_playbook(PLAYBOOK, "--check")
    assert done.returncode == 0, failures(done)
    assert f"{before} leads" in done.stdout
    assert all(stats["changed"] == 0 for stats in outcome(done)["stats"].values())
    assert patroni_leader(lab) == before


def test_a_candidate_that_is_no_member_is_refused_before_anything_is_paused(lab: Lab) -> None:
    done = ansible_playbook(PLAYBOOK, "--extra-vars", "switchover_candidate=node9")
    assert done.returncode != 0
    assert "node9 is not a member, replicas are: " in done.stdout
    assert all_serve(pools(lab))


def test_a_transaction_that_does_not_end_stops_the_switchover_and_names_the_balancer(lab: Lab) -> None:
    before = patroni_leader(lab)
    with lab.sql(lab.vip, 6432, "orderdb", autocommit=False) as connection:
        connection.execute("SELECT 1")
        done = ansible_playbook(PLAYBOOK, "--extra-vars", "switchover_pause_timeout=2")
        assert done.returncode != 0
        assert "transactions last longer than 2 s" in done.stdout
        assert connection.execute("SELECT 2").fetchone() == (2,)
    assert all_serve(pools(lab))
    assert patroni_leader(lab) == before
