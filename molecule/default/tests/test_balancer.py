# SPDX-License-Identifier: Apache-2.0
"""PgBouncer, HAProxy and the virtual address: the right member behind every port, and real work through them."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import ssl
import urllib.request
from typing import Any

import psycopg
import pytest

from .conftest import TLS, Lab, eventually, patroni_leader

ENTRANCES = [
    pytest.param(6432, "orderdb", False, id="pgbouncer"),
    pytest.param(6432, "orderdb_ro", True, id="pgbouncer-read-only"),
    pytest.param(5000, "orderdb", False, id="read-write"),
    pytest.param(5001, "orderdb", True, id="read-only"),
    pytest.param(5002, "orderdb", True, id="synchronous"),
]
WHO = "SELECT host(inet_server_addr()), pg_is_in_recovery(), current_user"


@pytest.mark.parametrize("door", ["vip", "node1", "node2", "node3"])
@pytest.mark.parametrize(("port", "database", "is_replica"), ENTRANCES)
def test_the_right_member_is_behind(lab: Lab, door: str, port: int, database: str, is_replica: bool) -> None:
    address = lab.vip if door == "vip" else lab.addresses[door]
    with lab.sql(address, port, database) as connection:
        row = connection.execute(WHO).fetchone()
    assert row is not None
    server, in_recovery, user = row
    primary = lab.addresses[patroni_leader(lab)]
    assert in_recovery is is_replica
    assert (server != primary) is is_replica, f"{server} answers, {primary} leads"
    assert server in lab.addresses.values()
    assert user == "orderuser"


def test_writing_works_and_is_refused_on_replicas(lab: Lab) -> None:
    with lab.sql(lab.vip, 6432, "orderdb") as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS written (id int)")
        connection.execute("DROP TABLE written")
    for port, database in ((6432, "orderdb_ro"), (5001, "orderdb"), (5002, "orderdb")):
        with lab.sql(lab.vip, port, database) as connection, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("CREATE TABLE written (id int)")


def test_reading_is_spread_over_both_replicas(lab: Lab) -> None:
    replicas = set(lab.addresses.values()) - {lab.addresses[patroni_leader(lab)]}
    servers = set()
    # Held at one time: a new connection goes where the fewest are, so that single ones may all go to one server.
    with contextlib.ExitStack() as held:
        for _connection in range(8):
            row = held.enter_context(lab.sql(lab.vip, 5001, "orderdb")).execute(WHO).fetchone()
            assert row is not None
            servers.add(str(row[0]))
    assert servers == replicas


def test_connection_environment_just_works(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in lab.environment.items():
        monkeypatch.setenv(name, value)
    with psycopg.connect() as connection:
        row = connection.execute("SELECT current_user, current_database(), pg_is_in_recovery()").fetchone()
        assert row == ("orderuser", "orderdb", False)
        assert connection.info.host == lab.vip
    assert lab.environment["PGSSLMODE"] == "verify-full"
    assert lab.environment["PGPORT"] == "6432"


def test_virtual_address_is_on_one_host(lab: Lab) -> None:
    holders = [
        name
        for name, host in lab.hosts.items()
        if re.search(rf"\b{re.escape(lab.vip)}/", host.check_output("ip -oneline -4 address show"))
    ]
    assert len(holders) == 1, holders


def statistics(lab: Lab, node: str) -> list[dict[str, str]]:
    certificate, key = lab.client_certificate
    context = ssl.create_default_context(cafile=str(lab.certificate_authority))
    context.load_cert_chain(certificate, key)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    with opener.open(f"https://{lab.addresses[node]}:7000/;csv", timeout=5) as response:
        return list(csv.DictReader(io.StringIO(response.read().decode().removeprefix("# "))))


def servers_up(lab: Lab, node: str) -> dict[str, set[str]]:
    """Return the servers that each backend uses."""
    up: dict[str, set[str]] = {}
    for row in statistics(lab, node):
        if row["svname"] in lab.addresses:
            up.setdefault(row["pxname"], set()).update({row["svname"]} if row["status"].startswith("UP") else set())
    return up


def test_statistics_show_who_gets_connections(lab: Lab, node: str) -> None:
    leader = patroni_leader(lab)
    replicas = set(lab.addresses) - {leader}
    synchronous = 1 if lab.suite == "bookworm" else 2
    found = servers_up(lab, node)
    assert found["read_write_members"] == {leader}
    assert found["read_only_members"] == replicas
    assert found["synchronous_members"] <= replicas
    assert len(found["synchronous_members"]) == synchronous


def pgbench(lab: Lab, arguments: str) -> str:
    """Run pgbench on a host as the application, through the virtual address and PgBouncer."""
    environment = {
        "PGHOST": lab.vip,
        "PGPORT": "6432",
        "PGUSER": lab.environment["PGUSER"],
        "PGPASSWORD": lab.environment["PGPASSWORD"],
        "PGDATABASE": "orderdb",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": f"{TLS}/ca.crt",
        "PGSSLCERT": f"{TLS}/pgbouncer.pem",
        "PGSSLKEY": f"{TLS}/pgbouncer.pem",
    }
    settings = " ".join(f"{name}={value}" for name, value in environment.items())
    result = lab.hosts["node1"].run(f"env {settings} pgbench {arguments}")
    assert result.rc == 0, result.stderr
    return str(result.stdout)


@pytest.fixture(scope="module")
def bench(lab: Lab) -> Any:
    """pgbench's tables at scale 10, made through PgBouncer."""
    pgbench(lab, "--initialize --scale=10 --quiet")
    yield
    pgbench(lab, "--initialize --init-steps=d --quiet")


@pytest.mark.usefixtures("bench")
@pytest.mark.parametrize("protocol", ["simple", "prepared"])
def test_pgbench_through_pgbouncer_has_no_failed_transaction(lab: Lab, protocol: str) -> None:
    output = pgbench(lab, f"--client=8 --jobs=2 --time=8 --protocol={protocol}")
    done = re.search(r"number of transactions actually processed: (\d+)", output)
    assert done is not None
    assert int(done[1]) > 100, output
    assert "number of failed transactions: 0 " in output, output


@pytest.mark.usefixtures("bench")
def test_what_pgbench_wrote_is_readable_on_every_replica(lab: Lab) -> None:
    question = "SELECT count(*), sum(abalance), (SELECT count(*) FROM pgbench_history) FROM pgbench_accounts"
    with lab.sql(lab.vip, 6432, "orderdb") as connection:
        on_primary = connection.execute(question).fetchone()
    assert on_primary is not None
    assert on_primary[0] == 1_000_000
    assert on_primary[2] > 100

    def by_replica() -> dict[str, Any]:
        found = {}
        # Open side by side, so that the route shares them out.
        with contextlib.ExitStack() as stack:
            for _connection in range(4):
                connection = stack.enter_context(lab.sql(lab.vip, 5001, "orderdb"))
                row = connection.execute(WHO).fetchone()
                assert row is not None
                found[row[0]] = connection.execute(question).fetchone()
        return found

    replicas = set(lab.addresses.values()) - {lab.addresses[patroni_leader(lab)]}
    expected = dict.fromkeys(replicas, on_primary)
    assert eventually(by_replica, lambda found: found == expected) == expected
