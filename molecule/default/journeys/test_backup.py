# SPDX-License-Identifier: Apache-2.0
"""The operator's journey of backups on the running lab: a set of all engines, restores of a part, kills, failovers, lost stores."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lab_access import Lab, ansible_playbook, eventually, outcome, patroni_leader, patroni_members, psql, segment_number
from sql_load import Load

KILLS = int(os.environ.get("HOLDFAST_KILLS", "10"))
# How long the repository is gone or full, under load.
LOST_SECONDS = float(os.environ.get("HOLDFAST_LOST_SECONDS", "15"))
BACKUPS = "/var/lib/holdfast/backup"
REPOSITORY = "/var/lib/pgbackrest"
DATABASE = "journeydb"
RESTORE = "playbooks/restore_logical.yml"
ROWS = 20000
TABLES = f"""
CREATE SCHEMA sales AUTHORIZATION orderuser;
SET ROLE orderuser;
CREATE TABLE sales.items (id serial PRIMARY KEY, name text UNIQUE, quantity int CHECK (quantity >= 0));
INSERT INTO sales.items (name, quantity) SELECT 'item ' || i, i FROM generate_series(1, {ROWS}) i;
CREATE TABLE sales.lines (id int PRIMARY KEY, item int REFERENCES sales.items);
INSERT INTO sales.lines SELECT i, i FROM generate_series(1, 1000) i;
CREATE INDEX lines_item ON sales.lines (item);
RESET ROLE;
"""
# A replica sees a sequence up to 32 values ahead: the primary logs so many at once.
PRINT = f"""
SELECT (SELECT count(*) || '/' || sum(quantity) FROM sales.items), (SELECT count(*) FROM sales.lines),
(SELECT string_agg(indexdef, ';' ORDER BY indexname) FROM pg_indexes WHERE schemaname = 'sales'),
(SELECT string_agg(tableowner || pg_get_constraintdef(c.oid), ';' ORDER BY conname)
 FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid JOIN pg_tables t ON t.tablename = r.relname WHERE schemaname = 'sales'),
(SELECT last_value FROM sales.items_id_seq) - {ROWS} BETWEEN 0 AND 32, current_setting('work_mem')
"""


def primary(lab: Lab) -> Any:
    """Return a shell on the primary's host."""
    return lab.hosts[patroni_leader(lab)]


def sql(lab: Lab, statement: str, database: str = "postgres") -> str:
    """Run SQL on the primary as the superuser."""
    return psql(primary(lab), statement, database)


def drop(lab: Lab, *names: str) -> None:
    """Drop databases, and those that restores kept of them."""
    for name in sql(lab, "SELECT datname FROM pg_database").splitlines():
        if name in names or any(name.startswith(f"{wanted}_before_") for wanted in names):
            sql(lab, f'DROP DATABASE "{name}" WITH (FORCE)')


def catalogue(lab: Lab, *options: str) -> dict[str, Any]:
    """Return what the program tells of all backups."""
    found: dict[str, Any] = json.loads(lab.backup.check_output(" ".join(["holdfast-backup", "catalogue", *options])))
    return found


def run(lab: Lab, *words: str) -> dict[str, Any]:
    """Run the program; return what it told."""
    quoted = " ".join(f"'{word}'" for word in ("holdfast-backup", *words))
    found: dict[str, Any] = json.loads(lab.backup.check_output(quoted))
    return found


def refused(lab: Lab, *words: str) -> str:
    """Run the program, which must refuse; return its one error."""
    done = lab.backup.run(" ".join(f"'{word}'" for word in ("holdfast-backup", *words)))
    assert done.rc == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return str(done.stderr)


def restore(*options: str, check: bool = False) -> tuple[int, str]:
    """Run the playbook; return its status and what it wrote."""
    words = [word for option in options for word in ("--extra-vars", option)]
    done = ansible_playbook(RESTORE, *words, *(["--check"] if check else []))
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def database(lab: Lab) -> Iterator[str]:
    """A database with content, and what of it must come back."""
    drop(lab, DATABASE)
    sql(lab, f"CREATE DATABASE {DATABASE} OWNER orderuser")
    sql(lab, f"ALTER DATABASE {DATABASE} SET work_mem = '5MB'")
    sql(lab, TABLES, DATABASE)
    yield sql(lab, PRINT, DATABASE)
    drop(lab, DATABASE, f"{DATABASE}_copy", f"{DATABASE}_parts", f"{DATABASE}_at_noon")


def test_one_run_backs_every_engine_up_as_one_set(lab: Lab, database: str) -> None:
    done = ansible_playbook("playbooks/backup.yml")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    entries = catalogue(lab, "--deep")["backups"]
    newest = max(entry["set"] for entry in entries)
    made = [entry for entry in entries if entry["set"] == newest]
    assert {entry["engine"] for entry in made} == {"postgresql", "logical", "valkey"}
    assert all(entry["good"] for entry in made)
    assert {entry["kind"] for entry in made if entry["engine"] == "logical"} == {"full", "globals"}
    screen = ansible_playbook("playbooks/status.yml").stdout
    assert "BACKUPS  backup1" in screen
    assert "holdfast" not in [line for line in screen.splitlines() if "NOT SCHEDULED" in line]


def test_a_database_comes_back_whole_elsewhere_and_in_place(lab: Lab, database: str) -> None:
    run(lab, "run", "journey", "--kind", "logical", "--options", json.dumps({"databases": [DATABASE]}))
    copy = f"{DATABASE}_copy"
    status, told = restore(f"restore_database={DATABASE}", f"restore_into={copy}", check=True)
    assert status == 0, told
    assert copy not in sql(lab, "SELECT datname FROM pg_database").splitlines()
    status, told = restore(f"restore_database={DATABASE}", f"restore_into={copy}")
    assert status == 0, told
    assert sql(lab, PRINT, copy) == database
    sql(lab, "DELETE FROM sales.lines", DATABASE)
    status, told = restore(f"restore_database={DATABASE}")
    assert status != 0
    assert "exists and is not empty; nothing was changed" in told
    status, told = restore(f"restore_database={DATABASE}", "restore_replace=true")
    assert status == 0, told
    assert sql(lab, PRINT, DATABASE) == database
    assert sql(lab, "SELECT count(*) FROM pg_roles WHERE rolname = 'restorer'") == "0"


def test_schema_data_and_roles_come_back_by_themselves(lab: Lab, database: str) -> None:
    options = {"databases": [DATABASE], "sections": ["schema", "data", "globals"]}
    run(lab, "run", "journey", "--kind", "logical", "--options", json.dumps(options))
    parts = f"{DATABASE}_parts"
    drop(lab, parts)
    for kind in ("schema", "data"):
        status, told = restore(f"restore_database={DATABASE}", f"restore_into={parts}", f"restore_kind={kind}")
        assert status == 0, told
    assert sql(lab, PRINT, parts) == database
    status, told = restore("restore_kind=globals")
    assert status == 0, told
    lab.sql(lab.vip, 6432, "orderdb").close()


def test_a_table_comes_back_from_a_physical_backup_at_a_moment_between_two_transactions(
    lab: Lab, database: str
) -> None:
    run(lab, "now", "--engines", "postgresql", "--type", "full")
    sql(lab, "INSERT INTO sales.lines VALUES (5001, 1)", DATABASE)
    moment = sql(lab, "SELECT now()")
    time.sleep(1)
    sql(lab, "INSERT INTO sales.lines VALUES (5002, 1)", DATABASE)
    sql(lab, "SELECT pg_switch_wal()")
    noon = f"{DATABASE}_at_noon"
    physical = [f"restore_database={DATABASE}", f"restore_into={noon}", "restore_source=physical", "restore_type=time"]
    status, told = restore(*physical, f'restore_target="{moment}:00"')
    assert status == 0, told
    assert sql(lab, "SELECT array_agg(id) FROM sales.lines WHERE id > 5000", noon) == "{5001}"
    sql(lab, "DELETE FROM sales.lines WHERE id > 5000", DATABASE)
    for target, word in (
        ("2100-01-01 00:00:00+00:00", "is in the future"),
        ("2001-01-01 00:00:00+00:00", "no backup lies"),
    ):
        status, told = restore(*physical, f'restore_target="{target}"')
        assert status != 0
        assert word in told
        assert "Possible is any time from" in told


def test_a_backup_that_was_tampered_with_is_refused(lab: Lab, database: str) -> None:
    made = run(lab, "run", "journey", "--kind", "logical", "--options", json.dumps({"sections": ["globals"]}))
    folder = f"{BACKUPS}/logical/{made['labels']['logical'][0]}"
    lab.backup.check_output(f"sed -i 's/LOGIN/NOLOG/' {folder}/globals.sql")
    try:
        status, told = restore("restore_kind=globals", check=True)
        assert status != 0
        assert "globals.sql has another content than was written (SHA-256)" in told
        assert "globals.sql" in refused(lab, "verify")
    finally:
        lab.backup.check_output(f"rm -r {folder}")


def killed(lab: Lab, seconds: float, *words: str) -> None:
    """Begin a run of the program and kill all of its processes after a while."""
    unit = f"journey-{random.getrandbits(40)}"
    quoted = " ".join(f"'{word}'" for word in words)
    lab.backup.check_output(f"systemd-run --quiet --unit={unit} holdfast-backup {quoted}")
    time.sleep(seconds)
    lab.backup.run(f"systemctl kill --signal=KILL {unit}.service")
    lab.backup.run(f"systemctl reset-failed {unit}.service")


def half_made(lab: Lab) -> list[str]:
    """Return the folders that a killed run left."""
    return str(lab.backup.check_output(f"find {BACKUPS} -mindepth 2 -maxdepth 2 -name '*.partial'")).split()


def assert_true(lab: Lab) -> None:
    """The catalogue lists what is whole, and nothing else."""
    found = catalogue(lab, "--deep")
    assert [entry for entry in found["backups"] if not entry["good"]] == []


@pytest.mark.parametrize("kind", ["logical", "pgbackrest"])
def test_killed_backups_leave_a_true_catalogue(lab: Lab, database: str, kind: str) -> None:
    options = {"logical": {"sections": ["full", "globals"]}, "pgbackrest": {"type": "full"}}[kind]
    words = ("run", "journey-kill", "--kind", kind, "--options", json.dumps(options))
    begun = time.monotonic()
    run(lab, *words)
    whole = time.monotonic() - begun
    left = 0
    for _kill in range(KILLS):
        killed(lab, random.uniform(0.1, whole), *words)
        left += len(half_made(lab))
        assert_true(lab)
    run(lab, *words)
    assert half_made(lab) == []
    assert_true(lab)
    print(f"{KILLS} {kind} backups killed within {whole:.1f} s; {left} unfinished folders seen, none listed")


def test_killed_prunes_keep_what_is_to_be_kept(lab: Lab, database: str) -> None:
    options = json.dumps({"sections": ["globals"]})
    for _round in range(KILLS):
        run(lab, "run", "journey", "--kind", "logical", "--options", options)
    doomed = {entry["label"] for entry in run(lab, "prune", "--dry-run")["logical"]}
    before = {entry["label"] for entry in catalogue(lab)["backups"] if entry["engine"] == "logical"}
    assert len(doomed) >= KILLS - 1
    for _kill in range(KILLS):
        killed(lab, random.uniform(0.2, 1.5), "prune")
        assert_true(lab)
        assert before - doomed <= {entry["label"] for entry in catalogue(lab)["backups"]}
    run(lab, "prune")
    after = {entry["label"] for entry in catalogue(lab)["backups"] if entry["engine"] == "logical"}
    assert after == before - doomed
    assert doomed <= {event["label"] for event in json.loads(lab.backup.check_output("holdfast-backup deletions"))}
    run(lab, "run", "journey", "--kind", "logical", "--options", options)
    assert half_made(lab) == []


def leading(lab: Lab) -> int:
    """Return the timeline of a leader that works, 0 where there is none."""
    found = [item["TL"] for item in patroni_members(lab) if item["Role"] == "Leader" and item["State"] == "running"]
    return int(found[0] or 0) if found else 0


def fail_over(lab: Lab) -> None:
    """Kill Patroni and PostgreSQL of the leader and wait until a new timeline has one that works."""
    timeline = leading(lab)
    lab.hosts[patroni_leader(lab)].check_output("systemctl kill --signal=KILL patroni.service")
    assert eventually(lambda: leading(lab), lambda found: found > timeline, 120) > timeline


def test_the_next_backup_comes_from_the_new_topology(lab: Lab, database: str) -> None:
    for during in (False, True):
        before = patroni_leader(lab)
        words = ("run", "journey", "--kind", "pgbackrest", "--options", json.dumps({"type": "full"}))
        if during:
            lab.backup.check_output(
                "systemd-run --quiet --unit=journey-failover --property=RemainAfterExit=yes holdfast-backup "
                + " ".join(f"'{word}'" for word in words)
            )
            time.sleep(2)
        fail_over(lab)
        if during:
            state = eventually(
                lambda: str(lab.backup.run("systemctl show journey-failover --property=SubState,Result").stdout),
                lambda text: "exited" in text or "failed" in text,
                240,
            )
            lab.backup.run("systemctl stop journey-failover; systemctl reset-failed journey-failover")
            print(
                "during:",
                state.split(),
                json.loads(lab.backup.check_output("cat /var/lib/holdfast/backup-jobs/journey.json")),
            )
        made = run(lab, *words)
        print(f"{before} -> {patroni_leader(lab)}: {made['message']}")
        lab.backup.check_output(f"runuser -u postgres -- pgbackrest --stanza={lab.cluster} check")
        newest = catalogue(lab)["backups"]
        assert made["labels"]["postgresql"][0] in [entry["label"] for entry in newest if entry["good"]]


def fill(lab: Lab, segments: int) -> None:
    """Write WAL that does not compress well."""
    noise = "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 300000))"
    for _segment in range(segments):
        sql(lab, f"SELECT pg_logical_emit_message(false, 'journey', {noise})")
        sql(lab, "SELECT pg_switch_wal()")


def archived(lab: Lab) -> set[int]:
    """Return the segments of the present timeline that the repository holds, as pgBackRest lists them."""
    listed = lab.backup.check_output(
        f"runuser -u postgres -- pgbackrest repo-ls --repo=1 --recurse --output=json archive/{lab.cluster}"
    )
    timeline = sql(lab, "SELECT pg_walfile_name(pg_current_wal_lsn())")[:8]
    names = [path.rpartition("/")[2] for path in json.loads(listed)]
    return {segment_number(name) for name in names if re.match(f"{timeline}[0-9A-F]{{16}}-", name)}


def check() -> list[str]:
    """Return the heads of what check.yml finds critical."""
    done = ansible_playbook("playbooks/check.yml")
    told = [line for line in done.stdout.splitlines() if line.startswith("CRITICAL")]
    assert done.returncode == (2 if told else 0), done.stdout[-3000:] + done.stderr
    return told


def assert_behind_then_caught_up(lab: Lab, mend: Callable[[], None]) -> None:
    """While a repository is lost the cluster serves and check.yml says what is wrong; afterwards no WAL is missing."""
    first = sql(lab, "SELECT last_archived_wal FROM pg_stat_archiver")
    with Load(lab, prepared=True, pause=0.2) as load:
        begun = time.time()
        fill(lab, 4)
        time.sleep(LOST_SECONDS)
        told = eventually(check, lambda lines: any("[archiving]" in line for line in lines), 90)
        print("\n".join(told))
        assert any("[archiving]" in line for line in told), told
        waiting = int(sql(lab, "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"))
        mend()
        begin = time.monotonic()
        # A segment that has nothing in it is not switched.
        last = sql(
            lab, "SELECT pg_walfile_name(pg_switch_wal()) FROM pg_logical_emit_message(false, 'journey', 'last')"
        )
        name = eventually(
            lambda: sql(lab, "SELECT last_archived_wal FROM pg_stat_archiver"), lambda name: name[8:] >= last[8:], 600
        )
        seconds = time.monotonic() - begin
    print(
        f"lost for {LOST_SECONDS:.0f} s: {waiting} segments waited, archived after {seconds:.0f} s; {load.transactions} transactions,"
        f" {len(load.errors)} errors, longest {load.longest(begun, time.time()):.1f} s"
    )
    assert load.errors == []
    assert load.lost() == 0
    assert name[8:] >= last[8:]
    assert set(range(segment_number(first), segment_number(last) + 1)) - archived(lab) == set()
    lab.backup.check_output(f"runuser -u postgres -- pgbackrest --stanza={lab.cluster} check")
    run(lab, "now", "--engines", "postgresql", "--type", "incr")


def test_a_repository_that_is_gone(lab: Lab, database: str) -> None:
    lab.backup.check_output("systemctl stop pgbackrest-server.service")
    try:
        assert_behind_then_caught_up(lab, lambda: lab.backup.check_output("systemctl start pgbackrest-server.service"))
    finally:
        lab.backup.check_output("systemctl start pgbackrest-server.service")


@contextlib.contextmanager
def small(lab: Lab, folder: str, spare: int) -> Iterator[Callable[[], None]]:
    """Put a folder on a file system with that many MiB left; the block is given what makes it large."""
    used = int(lab.backup.check_output(f"du -sm {folder}").split()[0])
    steps = [
        "systemctl stop pgbackrest-server.service",
        f"mkdir -p /srv/small /srv/real && mount -t tmpfs -o size={used + spare}m tmpfs /srv/small",
        f"cp -a {folder}/. /srv/small/ && mount --bind {folder} /srv/real && mount --bind /srv/small {folder}",
        "systemctl start pgbackrest-server.service",
    ]
    back = [
        "systemctl stop pgbackrest-server.service",
        f"umount {folder} && rm -rf /srv/real/* && cp -a /srv/small/. /srv/real/ && umount /srv/real && umount /srv/small",
        "systemctl start pgbackrest-server.service",
    ]
    for step in steps:
        lab.backup.check_output(step)
    try:
        yield lambda: lab.backup.check_output("mount -o remount,size=2g /srv/small")
    finally:
        for step in back:
            lab.backup.check_output(step)


def test_a_repository_that_is_full(lab: Lab, database: str) -> None:
    with small(lab, REPOSITORY, 2) as enlarge:
        assert "free" in refused(lab, "now", "--engines", "postgresql", "--type", "full")
        assert_behind_then_caught_up(lab, enlarge)


def test_a_target_that_is_full_before_and_during(lab: Lab, database: str) -> None:
    words = (
        "run",
        "journey",
        "--kind",
        "logical",
        "--options",
        json.dumps({"databases": [DATABASE], "sections": ["full"]}),
    )
    with small(lab, BACKUPS, 30):
        assert "Nothing was begun" in refused(lab, *words)
        assert half_made(lab) == []
    shell = primary(lab)
    shell.check_output(
        "head -c 120M /dev/urandom > /var/lib/postgresql/noise && chown postgres: /var/lib/postgresql/noise"
    )
    number = psql(shell, "SELECT lo_import('/var/lib/postgresql/noise')", DATABASE)
    shell.check_output("rm /var/lib/postgresql/noise")
    try:
        with small(lab, BACKUPS, 95):
            assert "failed on every member" in refused(lab, *words)
            assert half_made(lab) == []
            assert_true(lab)
    finally:
        sql(lab, f"SELECT lo_unlink({number})", DATABASE)
    run(lab, *words)


def timers(lab: Lab) -> set[str]:
    """Return the jobs that have a timer."""
    return {job["name"] for job in json.loads(lab.backup.check_output("holdfast-backup status"))}


def test_a_schedule_is_judged_before_anything_is_written(lab: Lab, database: str) -> None:
    before = timers(lab)
    good = {"name": "extra", "kind": "logical", "calendar": "Sun 03:00"}
    for jobs, word in (
        ([{**good, "calendar": "every night"}], "not a calendar expression"),
        ([good, good], "two jobs are called extra"),
        ([{**good, "options": {"sections": ["half"]}}], "half"),
    ):
        done = ansible_playbook(
            "playbooks/tiers/schedule.yml", "--limit", "backup1", "--extra-vars", json.dumps({"backup_jobs": jobs})
        )
        assert done.returncode != 0
        assert word in done.stdout
        assert timers(lab) == before
    replaced = json.dumps({"backup_jobs": [good]})
    done = ansible_playbook("playbooks/tiers/schedule.yml", "--limit", "backup1", "--check", "--extra-vars", replaced)
    assert outcome(done)["stats"]["backup1"]["changed"] == 1
    assert timers(lab) == before
    done = ansible_playbook("playbooks/tiers/schedule.yml", "--limit", "backup1", "--extra-vars", replaced)
    assert done.returncode == 0, done.stdout[-3000:]
    assert timers(lab) == {"extra"}
    assert "holdfast-backup-physical" not in lab.backup.check_output("ls /etc/systemd/system")
    done = ansible_playbook("playbooks/tiers/schedule.yml", "--limit", "backup1")
    assert done.returncode == 0
    assert timers(lab) == before
    done = ansible_playbook("playbooks/tiers/schedule.yml", "--limit", "backup1")
    assert outcome(done)["stats"]["backup1"]["changed"] == 0
