# SPDX-License-Identifier: Apache-2.0
"""A setting that PgBouncer reads only at its start, changed while queries run: no new client is refused, the virtual address stays."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from lab_access import ROOT, Lab, ansible_playbook, changes, outcome, patroni_leader, psql
from newcomers import Newcomers

POOLS = 6432
# Beyond the file limit of the lab's own 1000 clients, which is 16384.
CLIENTS = 9000
# The part of site.yml that is about balancers.
BALANCERS = ROOT / "playbooks/tiers/balancer.yml"
# Longer than the change takes on any machine; the queries are cancelled after it.
QUERY = "SELECT FROM pg_sleep(3600)"


class LongQuery:
    """A query through one balancer's pools that lasts longer than the change does."""

    def __init__(self, lab: Lab, address: str) -> None:
        self._lab, self._address = lab, address
        self.answer: Any = None
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> LongQuery:
        self._thread.start()
        return self

    def __exit__(self, *_of_the_block: object) -> None:
        self._thread.join()

    def _work(self) -> None:
        try:
            with self._lab.sql(self._address, POOLS, "orderdb") as connection:
                self.answer = connection.execute(QUERY).fetchone()
        except psycopg.Error as error:
            self.answer = error


def holders(lab: Lab) -> list[str]:
    """Return the hosts that have the virtual address."""
    return [name for name, host in lab.hosts.items() if f" {lab.vip}/" in host.check_output("ip -4 addr show")]


def file_limit(lab: Lab, name: str) -> int:
    """Return how many files the PgBouncer that serves now may open on a host."""
    pid = lab.hosts[name].check_output("systemctl show pgbouncer.service --property MainPID --value")
    limits = lab.hosts[name].file(f"/proc/{pid}/limits").content_string
    return next(int(line.split()[3]) for line in limits.splitlines() if line.startswith("Max open files"))


def sleeping(lab: Lab) -> int:
    """Return how many of the long queries run on the primary."""
    counts = [
        psql(
            host,
            f"SELECT count(*) FROM pg_stat_activity WHERE query = '{QUERY}' AND state = 'active'",
        )
        for host in lab.hosts.values()
    ]
    return sum(map(int, counts))


def cancel(lab: Lab) -> None:
    """End the long queries by the hand of an administrator."""
    leader = lab.hosts[patroni_leader(lab)]
    psql(leader, f"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query = '{QUERY}'")


@pytest.fixture
def as_before() -> Iterator[None]:
    """Leave the lab with the setting of its inventory."""
    yield
    changes(ansible_playbook(BALANCERS, "--tags", "pgbouncer"))


def test_no_client_is_refused_and_the_address_stays(lab: Lab, as_before: None) -> None:
    more = ("-e", json.dumps({"pgbouncer_max_client_connections": CLIENTS}), "--tags", "pgbouncer")
    checked = ansible_playbook(BALANCERS, "--check", "--diff", *more)
    assert set(lab.hosts) <= set(changes(checked))
    assert json.dumps(outcome(checked)).count("a new process has taken over") == len(lab.hosts)
    before = holders(lab)
    assert len(before) == 1
    assert {file_limit(lab, name) for name in lab.hosts} == {16384}

    queries = [LongQuery(lab, address) for name, address in lab.addresses.items() if name in lab.hosts]
    with queries[0], queries[1], queries[2], Newcomers(lab, POOLS) as newcomers:
        deadline = time.time() + 30
        while sleeping(lab) < len(queries):
            assert time.time() < deadline
            time.sleep(0.2)
        begun = time.time()
        seen = []
        run = threading.Thread(target=lambda: seen.append(changes(ansible_playbook(BALANCERS, *more))))
        run.start()
        moved = []
        while run.is_alive():
            moved += [held for held in [holders(lab)] if held != before]
            time.sleep(0.5)
        run.join()
        outlived, took, gap = sleeping(lab), time.time() - begun, newcomers.gap(begun)
        cancel(lab)
    print(
        f"the run took {took:.0f} s, {outlived} of {len(queries)} queries outlived it; {len(newcomers.errors)} new clients refused, "
        f"longest time without one: {gap:.1f} s; the address stayed on {before[0]}"
    )
    assert outlived == len(queries)
    assert seen
    assert set(lab.hosts) <= set(seen[0])
    assert newcomers.errors == []
    assert moved == []
    assert newcomers.lost() == 0
    assert [type(query.answer) for query in queries] == [psycopg.errors.QueryCanceled] * len(queries)
    assert {file_limit(lab, name) for name in lab.hosts} == {CLIENTS * 2 + 1024}


def test_a_second_run_changes_nothing(lab: Lab) -> None:
    assert changes(ansible_playbook(BALANCERS, "--tags", "pgbouncer")) == {}
