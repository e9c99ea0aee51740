# SPDX-License-Identifier: Apache-2.0
"""A standalone PostgreSQL is adopted, and a second site follows, is promoted, and the first one follows it.

On hosts of its own: HOLDFAST_LAB has to name a lab that doesn't stand. `make sites` does that.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest
from lab_access import BIN, ROOT, outcome

SITES = Path(__file__).parent / "sites"
EAST = ("--inventory", SITES / "east")
WEST = ("--inventory", SITES / "west")
OLD = ("--inventory", SITES / "old")
NAME = os.environ.get("HOLDFAST_LAB", "holdfast")
SOCKET = "/var/run/postgresql"
INSTALL = """
export DEBIAN_FRONTEND=noninteractive
rm -f /etc/postgresql-common/createcluster.d/*.conf
if ! dpkg -s postgresql-17 ssl-cert >/dev/null 2>&1; then
  apt-get install -qy --no-install-recommends postgresql-17 ssl-cert >/dev/null
fi
pg_lsclusters --no-header | grep -q main || pg_createcluster 17 main
systemctl start postgresql@17-main
"""


def playbook(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a playbook with these inventories only."""
    return subprocess.run(
        [BIN / "ansible-playbook", *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".link"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_NOCOLOR": "1",
        },
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


def succeed(*arguments: str | Path) -> dict[str, int]:
    """Run a playbook that has to succeed; return what it changed, by host."""
    done = playbook(*arguments)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return {host: stats["changed"] for host, stats in outcome(done)["stats"].items() if stats["changed"]}


def refused(*arguments: str | Path) -> str:
    """Run a playbook that has to fail without a change; return what it said."""
    done = playbook(*arguments)
    assert done.returncode != 0, done.stdout[-3000:]
    changed = {host: stats["changed"] for host, stats in outcome(done)["stats"].items() if stats["changed"]}
    assert changed == {}, done.stdout[-3000:]
    return done.stdout


def shell(host: str, script: str) -> str:
    """Run a shell script on a host."""
    done = subprocess.run(
        ["docker", "exec", f"{NAME}-{host}", "bash", "-ec", script],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{host}: {script}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
    return done.stdout.strip()


def psql(host: str, statement: str) -> str:
    """Run SQL as the superuser of a host."""
    done = subprocess.run(
        [
            "docker",
            "exec",
            "--interactive",
            f"{NAME}-{host}",
            "runuser",
            "-u",
            "postgres",
            "--",
            "psql",
            "-XAtq",
            "--set=ON_ERROR_STOP=1",
            "-h",
            SOCKET,
        ],
        input=statement,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait_for(host: str, statement: str, answer: str) -> None:
    """Wait until a host answers that."""
    deadline = time.time() + 120
    found = ""
    while found != answer:
        assert time.time() < deadline, f"{host}: {statement}: {found}"
        time.sleep(0.5)
        try:
            found = psql(host, statement)
        except AssertionError as error:
            found = str(error)


class Writers:
    """A client of the old server that goes over to the new one when it is told nothing any more, as an operator would have it."""

    def __init__(self, hosts: tuple[str, ...]) -> None:
        self._hosts = hosts
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.acknowledged: dict[int, float] = {}

    def __enter__(self) -> Writers:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()

    def _work(self) -> None:
        # Numbers that no row has yet.
        number = int(time.time())
        while not self._end.is_set():
            for host in self._hosts:
                number += 1
                try:
                    psql(host, f"INSERT INTO ledger VALUES ({number})")
                except AssertionError:
                    continue
                self.acknowledged[number] = time.time()
                break
            self._end.wait(0.05)

    def gap(self) -> float:
        """Return the longest time between two acknowledged writes, in seconds."""
        times = sorted(self.acknowledged.values())
        return max(b - a for a, b in itertools.pairwise(times))

    def lost(self, host: str) -> set[int]:
        """Return the acknowledged rows that a host doesn't have."""
        return set(self.acknowledged) - {int(line) for line in psql(host, "SELECT number FROM ledger").splitlines()}


@pytest.fixture(scope="module", autouse=True)
def hosts() -> Iterator[None]:
    """The hosts of both sites and of the old server, removed afterwards."""
    everything = (*EAST, *WEST, *OLD)
    succeed(*everything, "molecule/default/create.yml")
    yield
    if not os.environ.get("HOLDFAST_KEEP"):
        succeed(*everything, "molecule/default/destroy.yml")


@pytest.fixture(scope="module")
def old() -> str:
    """A plain PostgreSQL of Debian with data, that listens to the network."""
    if "ledger" in shell("old1", "runuser -u postgres -- psql -XAtc '\\dt' 2>/dev/null || true"):
        return "old1"
    shell("old1", INSTALL)
    psql("old1", "CREATE ROLE shop LOGIN PASSWORD 'shop'; CREATE TABLE ledger (number int PRIMARY KEY)")
    return "old1"


def test_adoption_refuses_what_it_cannot_do_and_changes_nothing(old: str) -> None:
    assert "confirm_adopt is ''" in refused(*EAST, *OLD, "playbooks/adopt.yml")
    confirmed = ("playbooks/adopt.yml", "--extra-vars", "confirm_adopt=east")
    assert "listen_addresses is 'localhost'" in refused(*EAST, *OLD, *confirmed)
    shell(
        old,
        "echo \"listen_addresses = '*'\" > /etc/postgresql/17/main/conf.d/shop.conf; systemctl restart postgresql@17-main",
    )
    other = json.dumps({"confirm_adopt": "east", "adopt_name": "other"})
    assert "/etc/postgresql/17/other is not there, found are: 17/main" in refused(
        *EAST, *OLD, "playbooks/adopt.yml", "--extra-vars", other
    )
    psql(old, "CREATE UNLOGGED TABLE cache (i int)")
    assert "unlogged tables are empty afterwards, there are 1 in postgres" in refused(*EAST, *OLD, *confirmed)
    psql(old, "DROP TABLE cache")


def test_a_standalone_server_is_adopted_with_a_short_stop_and_without_a_loss(old: str) -> None:
    confirmed = ("playbooks/adopt.yml", "--extra-vars", "confirm_adopt=east")
    system = psql(old, "SELECT system_identifier FROM pg_control_system()")
    with Writers((old, "node1")) as writers:
        time.sleep(2)
        begun = time.time()
        changed = succeed(*EAST, *OLD, *confirmed)
        took = time.time() - begun
        time.sleep(3)
    print(
        f"adopted in {took:.0f} s; longest time without a write {writers.gap():.1f} s, {len(writers.acknowledged)} writes; {changed}"
    )
    assert psql("node1", "SELECT system_identifier FROM pg_control_system()") == system
    assert psql("node1", "SELECT pg_is_in_recovery()") == "f"
    assert writers.lost("node1") == set()
    assert shell(old, "cat /etc/postgresql/17/main/start.conf | tail -1") == "disabled"
    assert "down" in shell(old, "pg_lsclusters --no-header")
    assert shell(old, "cat /var/lib/postgresql/17/main/PG_VERSION") == "17"


def test_a_second_run_of_both_changes_nothing(old: str) -> None:
    assert succeed(*EAST, *OLD, "playbooks/adopt.yml", "--extra-vars", "confirm_adopt=east") == {}
    assert succeed(*EAST, "playbooks/site.yml") == {}


def test_a_second_site_follows(old: str) -> None:
    changed = succeed(*WEST, "playbooks/site.yml")
    print(changed)
    assert psql("node2", "SELECT pg_is_in_recovery()") == "t"
    psql("node1", "INSERT INTO ledger VALUES (-1)")
    wait_for("node2", "SELECT count(*) FROM ledger WHERE number = -1", "1")
    assert succeed(*WEST, "playbooks/site.yml") == {}


def test_nobody_is_promoted_beside_a_primary() -> None:
    assert "confirm_promote is ''" in refused(*WEST, "playbooks/promote_cluster.yml")
    said = refused(*WEST, "playbooks/promote_cluster.yml", "--extra-vars", "confirm_promote=west")
    assert "is a primary and takes writes" in said


def test_sites_change_places_without_a_loss() -> None:
    to_west = json.dumps(
        {"confirm_demote": "east", "patroni_standby_cluster": {"host": shell("node2", "hostname -I").split()[0]}}
    )
    with Writers(("node1", "node2")) as writers:
        time.sleep(2)
        begun = time.time()
        succeed(*EAST, "playbooks/demote_cluster.yml", "--extra-vars", to_west)
        succeed(*WEST, "playbooks/promote_cluster.yml", "--extra-vars", "confirm_promote=west")
        took = time.time() - begun
        time.sleep(3)
    print(f"sites changed places in {took:.0f} s; longest time without a write {writers.gap():.1f} s")
    assert psql("node2", "SELECT pg_is_in_recovery()") == "f"
    assert psql("node1", "SELECT pg_is_in_recovery()") == "t"
    assert writers.lost("node2") == set()
    assert writers.lost("node1") == set()
    assert succeed(*WEST, "playbooks/promote_cluster.yml", "--extra-vars", "confirm_promote=west") == {}


def test_a_site_that_is_lost_is_replaced_and_comes_back_as_a_standby() -> None:
    psql("node2", "INSERT INTO ledger VALUES (-2)")
    wait_for("node1", "SELECT count(*) FROM ledger WHERE number = -2", "1")
    subprocess.run(["docker", "kill", f"{NAME}-node2"], check=True, capture_output=True)
    try:
        succeed(*EAST, "playbooks/promote_cluster.yml", "--extra-vars", "confirm_promote=east")
        assert psql("node1", "SELECT pg_is_in_recovery()") == "f"
        assert psql("node1", "SELECT count(*) FROM ledger WHERE number = -2") == "1"
        psql("node1", "INSERT INTO ledger VALUES (-3)")
    finally:
        subprocess.run(["docker", "start", f"{NAME}-node2"], check=True, capture_output=True)
    wait_for("node2", "SELECT pg_is_in_recovery()", "f")
    # It comes back as a primary of its own, which nobody reaches as long as applications are led to the other site.
    said = refused(*WEST, "playbooks/demote_cluster.yml", "--extra-vars", "confirm_demote=west")
    assert "so this site cannot follow" in said
    succeed(*WEST, "playbooks/destroy.yml", "--extra-vars", "confirm_destroy=west")
    succeed(*WEST, "playbooks/site.yml")
    wait_for("node2", "SELECT count(*) FROM ledger WHERE number = -3", "1")
