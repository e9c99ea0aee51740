"""A setting that PgBouncer reads only at its start, changed while queries run: no new client is refused, the virtual address stays."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from lab_access import ROOT, Lab, ansible_playbook, changes, outcome, psql
from newcomers import Newcomers

POOLS = 6432
# Beyond the file limit of the lab's own 1000 clients, which is 16384.
CLIENTS = 9000
SITE = ROOT / "playbooks/site.yml"
QUERY_SECONDS = 115


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
                self.answer = connection.execute(f"SELECT 'slept' FROM pg_sleep({QUERY_SECONDS})").fetchone()
        except psycopg.Error as error:
            self.answer = error


def holders(lab: Lab) -> list[str]:
    """Return the hosts that have the virtual address."""
    return [name for name, host in lab.hosts.items() if f" {lab.vip}/" in host.check_output("ip -4 addr show")]


def file_limit(lab: Lab, name: str) -> int:
    """Return how many files the PgBouncer that serves now may open on a host."""
    pid = lab.hosts[name].check_output("systemctl show pgbouncer.service --property MainPID --value")
    return int(lab.hosts[name].check_output(f"prlimit --nofile --noheadings --output SOFT --pid {pid}"))


def sleeping(lab: Lab) -> int:
    """Return how many of the long queries run on the primary."""
    counts = [
        psql(
            host,
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(115)%' AND state = 'active' AND pid <> pg_backend_pid()",
        )
        for host in lab.hosts.values()
    ]
    return sum(map(int, counts))


@pytest.fixture
def as_before() -> Iterator[None]:
    """Leave the lab with the setting of its inventory."""
    yield
    changes(ansible_playbook(SITE, "--tags", "pgbouncer"))


def test_no_client_is_refused_and_the_address_stays(lab: Lab, as_before: None) -> None:
    more = ("-e", json.dumps({"pgbouncer_max_client_connections": CLIENTS}), "--tags", "pgbouncer")
    checked = ansible_playbook(SITE, "--check", "--diff", *more)
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
        run = threading.Thread(target=lambda: seen.append(changes(ansible_playbook(SITE, *more))))
        run.start()
        moved = []
        while run.is_alive():
            moved += [held for held in [holders(lab)] if held != before]
            time.sleep(0.5)
        run.join()
        still = sleeping(lab)
        gap = newcomers.gap(begun)
        print(
            f"the run took {time.time() - begun:.0f} s, {still} long queries outlived it; longest time without a new client: {gap:.1f} s"
        )
    assert seen
    assert set(lab.hosts) <= set(seen[0])
    assert newcomers.errors == []
    assert moved == []
    assert newcomers.lost() == 0
    assert [query.answer for query in queries] == [("slept",)] * len(queries)
    assert {file_limit(lab, name) for name in lab.hosts} == {CLIENTS * 2 + 1024}
    print(f"refused: {len(newcomers.errors)}; address stayed on {before[0]}")


def test_a_second_run_changes_nothing(lab: Lab) -> None:
    assert changes(ansible_playbook(SITE, "--tags", "pgbouncer")) == {}
