# SPDX-License-Identifier: Apache-2.0
"""The Valkey cluster, by valkey-cli and by a cluster client: all slots, replicas on other hosts, data on both."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import valkey

from .conftest import TLS, Lab, eventually

INSTANCES = [(node, port) for node in ("node1", "node2", "node3") for port in (7001, 7002)]
KEYS = 100_000


@pytest.fixture
def client(lab: Lab) -> Iterator[valkey.ValkeyCluster]:
    """A cluster client with the application's user, as .lab/connection.env describes it."""
    options = lab.valkey_options(lab.environment["VALKEY_USER"], lab.environment["VALKEY_PASSWORD"])
    host, port = lab.environment["VALKEY_HOST"], int(lab.environment["VALKEY_PORT"])
    connection = valkey.ValkeyCluster(host=host, port=port, **options)
    yield connection
    connection.close()


def topology(lab: Lab, node: str, port: int) -> list[dict[str, str]]:
    """Return CLUSTER NODES of one instance."""
    with lab.valkey_admin(node, port) as connection:
        found = connection.cluster("NODES")
    return [{"address": address, **fields} for address, fields in found.items()]


def host_of(entry: dict[str, str]) -> str:
    return entry["address"].partition(":")[0]


def is_primary(entry: dict[str, str]) -> bool:
    return "master" in entry["flags"]


def test_valkey_cli_finds_nothing_wrong(lab: Lab) -> None:
    check = lab.hosts["node1"].run(
        f"env REDISCLI_AUTH={lab.secret('valkey_admin')} valkey-cli --user admin --tls --cacert {TLS}/ca.crt "
        f"--cert {TLS}/valkey.pem --key {TLS}/valkey.pem --cluster check {lab.addresses['node2']}:7001"
    )
    assert check.rc == 0, check.stdout + check.stderr
    assert "[OK] All nodes agree about slots configuration." in check.stdout
    assert "[OK] All 16384 slots covered." in check.stdout
    assert len(re.findall(r"^S: ", check.stdout, re.MULTILINE)) == 3
    assert len(re.findall(r"^M: ", check.stdout, re.MULTILINE)) == 3
    assert not re.search(r"\[(WARNING|ERR)\]", check.stdout), check.stdout


@pytest.mark.parametrize(("node", "port"), INSTANCES)
def test_every_node_sees_the_same_cluster(lab: Lab, node: str, port: int) -> None:
    entries = topology(lab, node, port)
    addresses = {f"{address}:{port}" for address in lab.addresses.values() for port in (7001, 7002)}
    assert {entry["address"] for entry in entries} == addresses
    for entry in entries:
        assert entry["connected"], entry
        assert not re.search(r"fail|handshake|noaddr", entry["flags"]), entry
    # A slot that stands alone has no end.
    slots = [range(int(run[0]), int(run[-1]) + 1) for entry in entries for run in entry["slots"]]
    assert sorted(slot for run in slots for slot in run) == list(range(16384))


def test_each_host_has_one_primary_and_replicas_are_elsewhere(lab: Lab) -> None:
    entries = {entry["node_id"]: entry for entry in topology(lab, "node1", 7001)}
    primaries = [entry for entry in entries.values() if is_primary(entry)]
    assert sorted(map(host_of, primaries)) == sorted(lab.addresses.values())
    replicas = [entry for entry in entries.values() if not is_primary(entry)]
    assert len(replicas) == 3
    assert {entry["master_id"] for entry in replicas} == {entry["node_id"] for entry in primaries}
    for entry in replicas:
        assert host_of(entry) != host_of(entries[entry["master_id"]]), entry


@pytest.mark.parametrize(("node", "port"), INSTANCES)
def test_instance_is_set_up(lab: Lab, node: str, port: int) -> None:
    with lab.valkey_admin(node, port) as connection:
        settings = connection.config_get("*")
        memory = connection.info("memory")
        replication = connection.info("replication")
    assert settings["appendonly"] == "yes"
    assert settings["save"] == "900 1 300 10 60 10000"
    assert settings["port"] == "0"
    assert {name: settings[name] for name in ("tls-cluster", "tls-replication", "tls-auth-clients")} == {
        "tls-cluster": "yes",
        "tls-replication": "yes",
        "tls-auth-clients": "yes",
    }
    assert 0 < int(settings["maxmemory"]) * 2 < memory["total_system_memory"]
    if replication["role"] == "slave":
        assert replication["master_link_status"] == "up"


def test_application_may_not_administer(client: valkey.ValkeyCluster) -> None:
    for command in (("CONFIG", "GET", "*"), ("FLUSHALL",), ("ACL", "LIST"), ("KEYS", "*")):
        with pytest.raises(valkey.exceptions.NoPermissionError):
            client.execute_command(*command, target_nodes=valkey.ValkeyCluster.RANDOM)


@pytest.mark.parametrize(("user", "password"), [("orderapp", "wrong"), ("default", ""), ("nobody", "nothing")])
def test_nobody_else_gets_in(lab: Lab, user: str, password: str) -> None:
    with (
        pytest.raises((valkey.exceptions.AuthenticationError, valkey.exceptions.ResponseError)),
        valkey.Valkey(host=lab.addresses["node1"], port=7001, **lab.valkey_options(user, password)) as connection,
    ):
        connection.ping()


def test_replication_user_may_only_replicate(lab: Lab) -> None:
    options = lab.valkey_options("replication", lab.secret("valkey_replication"))
    with valkey.Valkey(host=lab.addresses["node1"], port=7001, **options) as connection:
        assert connection.ping()
        with pytest.raises(valkey.exceptions.NoPermissionError):
            connection.get("anything")


def value_of(number: int) -> str:
    return f"value {number}"


def test_keys_of_a_cluster_client_are_on_primaries_and_replicas(lab: Lab, client: valkey.ValkeyCluster) -> None:
    numbers = range(KEYS)
    for first in range(0, KEYS, 10_000):
        pipeline = client.pipeline()
        for number in numbers[first : first + 10_000]:
            pipeline.set(f"verify:{number}", value_of(number))
        assert all(pipeline.execute())
    try:
        assert count_keys(lab, primaries=True) == KEYS
        assert eventually(lambda: count_keys(lab, primaries=False), lambda found: found == KEYS) == KEYS
        assert read_on_replicas(lab, range(0, KEYS, 97)) == {number: value_of(number) for number in range(0, KEYS, 97)}
    finally:
        for first in range(0, KEYS, 10_000):
            pipeline = client.pipeline()
            for number in numbers[first : first + 10_000]:
                pipeline.delete(f"verify:{number}")
            pipeline.execute()


def instances(lab: Lab, primaries: bool) -> list[tuple[str, int]]:
    """Return the instances of one role, by their own word."""
    role = "master" if primaries else "slave"
    chosen = []
    for node, port in INSTANCES:
        with lab.valkey_admin(node, port) as connection:
            if connection.info("replication")["role"] == role:
                chosen.append((node, port))
    return chosen


def count_keys(lab: Lab, primaries: bool) -> int:
    """Count the keys of this test on the instances of one role."""
    count = 0
    for node, port in instances(lab, primaries):
        with lab.valkey_admin(node, port) as connection:
            count += sum(1 for _key in connection.scan_iter("verify:*", count=10_000))
    return count


def read_on_replicas(lab: Lab, numbers: range) -> dict[int, str]:
    """Read keys from the replicas themselves, each those it has."""
    found: dict[int, str] = {}
    for node, port in instances(lab, primaries=False):
        with lab.valkey_admin(node, port) as connection:
            connection.execute_command("READONLY")
            pipeline = connection.pipeline(transaction=False)
            for number in numbers:
                pipeline.get(f"verify:{number}")
            for number, value in zip(numbers, pipeline.execute(raise_on_error=False), strict=True):
                if isinstance(value, str):
                    found[number] = value
    return found
