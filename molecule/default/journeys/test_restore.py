# SPDX-License-Identifier: Apache-2.0
"""The whole PostgreSQL cluster back to a time, a position, a transaction and a name, on the running lab, while a client writes."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator

import killed_playbook
import psycopg
import pytest
from lab_access import Lab, ansible_playbook, changes, eventually, failures, patroni_leader, patroni_members, psql

RUNS = int(os.environ.get("HOLDFAST_RESTORES", "3"))
KILLS = int(os.environ.get("HOLDFAST_KILLS", "10"))
PLAYBOOK = "playbooks/restore_postgresql.yml"
STATE = "/var/lib/postgresql/holdfast-restore.json"
TABLE = "restored"
# The whole command line of a module at work.
MODULE = "^/usr/bin/python3$"


@contextlib.contextmanager
def writing(lab: Lab) -> Iterator[None]:
    """Have a client that writes through the virtual address, before, during and after."""
    end = threading.Event()

    def work() -> None:
        number = 0
        while not end.is_set():
            with contextlib.suppress(psycopg.Error), lab.sql(lab.vip, 6432, "orderdb") as connection:
                while not end.is_set():
                    number += 1
                    connection.execute("INSERT INTO noise VALUES (%s)", (number,))
                    end.wait(0.02)
            end.wait(1)

    with lab.sql(lab.vip, 6432, "orderdb") as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS noise (number bigint)")
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def sql(lab: Lab, statement: str) -> str:
    """Run SQL on the primary as the superuser."""
    return psql(lab.hosts[patroni_leader(lab)], statement, "orderdb")


def target(lab: Lab, kind: str, name: str) -> str:
    """Write a row, and return the point after it that a restore is to reach; then write another one."""
    sql(lab, f"CREATE TABLE IF NOT EXISTS {TABLE} (name text)")
    xid = sql(lab, f"BEGIN; INSERT INTO {TABLE} VALUES ('{name} before'); SELECT pg_current_xact_id(); COMMIT")
    if kind == "xid":
        found = xid
    elif kind == "lsn":
        found = sql(lab, "SELECT pg_current_wal_insert_lsn()")
    elif kind == "name":
        sql(lab, f"SELECT pg_create_restore_point('{name}')")
        found = name
    else:
        time.sleep(1)
        found = sql(lab, "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00:00'")
        time.sleep(1)
    sql(lab, f"INSERT INTO {TABLE} VALUES ('{name} after')")
    sql(lab, "SELECT pg_switch_wal()")
    return found


def words(*options: str) -> list[str]:
    """Return the playbook's arguments."""
    return [word for option in ("confirm_restore=lab", *options) for word in ("--extra-vars", option)]


def play(*options: str) -> None:
    """Run the playbook to its good end."""
    done = ansible_playbook(PLAYBOOK, *words(*options))
    assert done.returncode == 0, failures(done)


def rows(lab: Lab, name: str) -> str:
    """Return which of the rows before and after a target there are."""
    return sql(lab, f"SELECT string_agg(name, ',' ORDER BY name DESC) FROM {TABLE} WHERE name LIKE '{name}%'")


def all_follow(lab: Lab) -> int:
    """Wait until all members are on one timeline and stream; return it."""
    members = eventually(
        lambda: patroni_members(lab),
        lambda found: (
            {item["State"] for item in found} == {"running", "streaming"} and len({item["TL"] for item in found}) == 1
        ),
        120,
    )
    assert len({member["TL"] for member in members}) == 1, members
    return int(members[0]["TL"] or 0)


def unchanged() -> None:
    """The cluster is as the inventory says; what restores kept is given up."""
    assert changes(ansible_playbook("playbooks/site.yml")) == {}
    play("restore_action=cleanup")


@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.parametrize("kind", ["time", "lsn", "xid", "name"])
def test_the_cluster_is_taken_to_a_point_between_two_transactions(lab: Lab, kind: str, run: int) -> None:
    name = f"{kind}{int(time.time())}"
    with writing(lab):
        lab.backup.check_output("holdfast-backup now --engines postgresql --type diff")
        point = target(lab, kind, name)
        begun = time.monotonic()
        play(f"restore_type={kind}", f'restore_target="{point}"')
        seconds = time.monotonic() - begun
        assert rows(lab, name) == f"{name} before"
        timeline = all_follow(lab)
        for host in lab.hosts.values():
            count = f"SELECT count(*) FROM {TABLE} WHERE name = '{name} before'"
            assert psql(host, count, "orderdb") == "1"
        print(f"{kind} {point}: {seconds:.0f} s, timeline {timeline}")
    unchanged()


def kill_at_random(lab: Lab, chance: random.Random, longest: float, *options: str) -> bool:
    """Kill the playbook, and each second time what it has at work on the hosts; return whether it had ended before."""
    killed = killed_playbook.kill(chance.uniform(4, longest), PLAYBOOK, *words(*options))
    everything = not killed.ended and chance.random() < 0.5
    if everything:
        for host in lab.hosts.values():
            host.run("pkill --signal KILL --full %s", MODULE)
    print(f"{killed}{', modules too' if everything else ''}")
    return killed.ended


def test_killed_restores_go_on(lab: Lab) -> None:
    chance = killed_playbook.chance()
    kills = 0
    while kills < KILLS:
        name = f"killed{int(time.time())}"
        lab.backup.check_output("holdfast-backup now --engines postgresql --type diff")
        options = ["restore_type=time", f'restore_target="{target(lab, "time", name)}"']
        while kills < KILLS and not kill_at_random(lab, chance, 70, *options):
            kills += 1
        play(*options)
        assert rows(lab, name) == f"{name} before"
        print(f"restored after {kills} kills, timeline {all_follow(lab)}")
        unchanged()


def test_a_killed_restore_goes_back(lab: Lab) -> None:
    chance = killed_playbook.chance()
    name = f"back{int(time.time())}"
    lab.backup.check_output("holdfast-backup now --engines postgresql --type diff")
    options = ["restore_type=time", f'restore_target="{target(lab, "time", name)}"']
    begun = False
    while not begun:
        assert not kill_at_random(lab, chance, 45, *options)
        begun = any(
            host.file(STATE).exists and "done" not in host.file(STATE).content_string for host in lab.hosts.values()
        )
    play("restore_action=back")
    assert rows(lab, name) == f"{name} before,{name} after"
    all_follow(lab)
    unchanged()
