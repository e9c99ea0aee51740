# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL under Patroni, by patronictl and by PostgreSQL's own views: one primary, two replicas that count."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from .conftest import Lab, eventually, patroni_leader, patroni_members, psql

# Patroni 3.0 (bookworm) has no quorum commit.
STANDBYS = {
    "bookworm": ["Replica", "Sync Standby"],
    "trixie": ["Quorum Standby", "Quorum Standby"],
    "forky": ["Quorum Standby", "Quorum Standby"],
}
STREAMING = {"bookworm": "running"}
Superuser = Callable[[str], str]


def test_patroni_has_one_leader_and_two_standbys(lab: Lab) -> None:
    def roles(members: list[dict[str, Any]]) -> list[str]:
        return sorted(member["Role"] for member in members)

    expected = sorted(["Leader", *STANDBYS[lab.suite]])
    members = eventually(lambda: patroni_members(lab), lambda found: roles(found) == expected)
    assert roles(members) == expected, members
    assert {member["Member"]: member["Host"] for member in members} == lab.addresses
    assert len({member["TL"] for member in members}) == 1
    for member in members:
        wanted = "running" if member["Role"] == "Leader" else STREAMING.get(lab.suite, "streaming")
        assert member["State"] == wanted, member
        assert not member.get("Pending restart"), member


def test_primary_streams_to_both_replicas_over_tls(lab: Lab, superuser: Superuser) -> None:
    rows = superuser(
        "SELECT application_name, state, sync_state, ssl, version FROM pg_stat_replication"
        " JOIN pg_stat_ssl USING (pid) ORDER BY 1"
    ).splitlines()
    found = {name: (state, sync, ssl, version) for name, state, sync, ssl, version in (row.split("|") for row in rows)}
    leader = patroni_leader(lab)
    assert set(found) == set(lab.addresses) - {leader}
    for state, _sync, ssl, version in found.values():
        assert (state, ssl) == ("streaming", "t")
        assert version in {"TLSv1.2", "TLSv1.3"}
    synchronous = sorted(sync for _state, sync, _ssl, _version in found.values())
    assert synchronous == (["async", "sync"] if lab.suite == "bookworm" else ["quorum", "quorum"])


def test_commit_waits_for_a_standby(lab: Lab, superuser: Superuser) -> None:
    names = superuser("SHOW synchronous_standby_names")
    assert superuser("SHOW synchronous_commit") in {"on", "remote_apply"}
    standbys = set(lab.addresses) - {patroni_leader(lab)}
    mentioned = {name for name in standbys if name in names}
    if lab.suite == "bookworm":
        assert len(mentioned) == 1, names
    else:
        assert names.startswith("ANY 1 "), names
        assert mentioned == standbys, names


def test_members_are_copies_of_one_database(lab: Lab) -> None:
    identifiers = {psql(host, "SELECT system_identifier FROM pg_control_system()") for host in lab.hosts.values()}
    assert len(identifiers) == 1


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("data_checksums", "on"),
        ("ssl", "on"),
        ("password_encryption", "scram-sha-256"),
        ("wal_log_hints", "on"),
        ("hot_standby", "on"),
    ],
)
def test_setting(lab: Lab, node: str, setting: str, value: str) -> None:
    assert psql(lab.hosts[node], f"SHOW {setting}") == value


def test_one_server_runs_and_it_is_patronis(lab: Lab, node: str) -> None:
    host = lab.hosts[node]
    assert host.check_output("pg_lsclusters --no-header") == ""
    servers = host.check_output("ps -C postgres -o args= | grep -- ' -D '").splitlines()
    assert len(servers) == 1
    assert f"-D /var/lib/postgresql/{psql(host, 'SHOW server_version').partition('.')[0]}/{lab.cluster} " in servers[0]


def test_database_belongs_to_its_owner(superuser: Superuser) -> None:
    owner = superuser("SELECT datdba::regrole FROM pg_database WHERE datname = 'orderdb'")
    assert owner == "orderuser"
    flags = superuser(
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication FROM pg_roles WHERE rolname = 'orderuser'"
    )
    assert flags == "f|f|f|f"


def test_passwords_are_stored_as_scram(superuser: Superuser) -> None:
    others = superuser(
        "SELECT rolname FROM pg_authid WHERE rolpassword IS NOT NULL AND rolpassword NOT LIKE 'SCRAM-SHA-256$%'"
    )
    assert others == ""


@pytest.mark.parametrize("user", ["postgres", "replicator", "rewinder", "dumper"])
def test_system_users_cannot_come_in_through_the_balancer(lab: Lab, user: str) -> None:
    names = {
        "postgres": "postgresql_superuser",
        "replicator": "postgresql_replication",
        "rewinder": "postgresql_rewind",
        "dumper": "postgresql_dump",
    }
    with pytest.raises(psycopg.OperationalError, match=r"pg_hba\.conf rejects connection"):
        lab.sql(lab.vip, 5000, "orderdb", user=user, password=lab.secret(names[user]))


@pytest.fixture
def temporary_user(superuser: Superuser) -> Any:
    """A user of PostgreSQL for one test: name and password."""
    name, password = f"temporary_{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    superuser(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    yield name, password
    superuser(f"DROP ROLE {name}")


def test_pgbouncer_honours_the_expiry_of_passwords(
    lab: Lab, superuser: Superuser, temporary_user: tuple[str, str]
) -> None:
    name, password = temporary_user
    superuser(f"ALTER ROLE {name} VALID UNTIL '2000-01-01'")
    with pytest.raises(psycopg.OperationalError, match=r"authentication failed|no such user"):
        lab.sql(lab.vip, 6432, "orderdb", user=name, password=password)
    superuser(f"ALTER ROLE {name} VALID UNTIL 'infinity'")

    def user() -> str:
        try:
            with lab.sql(lab.vip, 6432, "orderdb", user=name, password=password) as connection:
                return str(connection.execute("SELECT current_user").fetchone())
        except psycopg.OperationalError as error:
            return str(error)

    assert eventually(user, lambda found: found == f"('{name}',)") == f"('{name}',)"


def test_a_wrong_password_is_refused(lab: Lab) -> None:
    for port in (6432, 5000):
        with pytest.raises(psycopg.OperationalError, match="authentication failed"):
            lab.sql(lab.vip, port, "orderdb", password="wrong")


def test_programs_beside_patroni_run(lab: Lab) -> None:
    for host in lab.hosts.values():
        for unit in ("patroni-guard", "patroni-follow", "etcd-leader-away.timer"):
            assert host.service(unit).is_running, unit
            assert host.service(unit).is_enabled, unit
