"""The whole PostgreSQL cluster back to a time, a position, a transaction and a name, on the running lab, while a client writes."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
from lab_access import Lab, ansible_playbook, eventually, outcome, patroni_leader, patroni_members, psql

RUNS = int(os.environ.get("HOLDFAST_RESTORES", "3"))
TABLE = "restored"


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


@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.parametrize("kind", ["time", "lsn", "xid", "name"])
def test_the_cluster_is_taken_to_a_point_between_two_transactions(lab: Lab, kind: str, run: int) -> None:
    name = f"{kind}{int(time.time())}"
    with writing(lab):
        lab.backup.check_output("holdfast-backup now --engines postgresql --type diff")
        point = target(lab, kind, name)
        begun = time.monotonic()
        options = ["confirm_restore=lab", f"restore_type={kind}", f'restore_target="{point}"']
        words = [word for option in options for word in ("--extra-vars", option)]
        done = ansible_playbook("playbooks/restore_postgresql.yml", *words)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr
        seconds = time.monotonic() - begun
        rows = sql(lab, f"SELECT string_agg(name, ',' ORDER BY name) FROM {TABLE} WHERE name LIKE '{name}%'")
        assert rows == f"{name} before"
        members = eventually(
            lambda: patroni_members(lab),
            lambda found: (
                {item["State"] for item in found} == {"running", "streaming"}
                and len({item["TL"] for item in found}) == 1
            ),
            120,
        )
        assert len({member["TL"] for member in members}) == 1, members
        for host in lab.hosts.values():
            count = f"SELECT count(*) FROM {TABLE} WHERE name = '{name} before'"
            assert psql(host, count, "orderdb") == "1"
        print(f"{kind} {point}: {seconds:.0f} s, timeline {members[0]['TL']}")
    done = ansible_playbook("playbooks/site.yml")
    assert done.returncode == 0, done.stdout[-3000:]
    assert {host: told["changed"] for host, told in outcome(done)["stats"].items() if told["changed"]} == {}
    cleanup = ansible_playbook(
        "playbooks/restore_postgresql.yml",
        "--extra-vars",
        "confirm_restore=lab",
        "--extra-vars",
        "restore_action=cleanup",
    )
    assert cleanup.returncode == 0, cleanup.stdout[-3000:]
