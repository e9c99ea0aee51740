# SPDX-License-Identifier: Apache-2.0
"""What others, or a killed run, left open is finished without losing a key: marks set by hand on real servers."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import pytest
from run_module import fail_module, run_module
from valkey_servers import ValkeyServers

TAG = "{a}"
NUMBER = 200


def arguments(servers: ValkeyServers, **more: object) -> dict[str, object]:
    return {"nodes": servers.nodes(), **servers.login, **more}


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.fixture(scope="module", params=["8.1", "9.1"])
def servers(request: pytest.FixtureRequest) -> Iterator[ValkeyServers]:
    """A formed cluster of three primaries with keys in one slot, in all databases, of which the primary is found by `place`.

    Each test leaves it healed, with all keys: to form one takes longer than a test.
    """
    databases = 4 if request.param == "9.1" else 1
    with ValkeyServers(request.param, 6, settings={"repl-backlog-size": "16kb"}, databases=databases) as found:
        run_module("valkey_cluster", arguments(found))
        fill(found)
        yield found


def fill(servers: ValkeyServers) -> None:
    script = f"for i=1,{NUMBER} do server.call('SET','{TAG}'..i,ARGV[1]..i) end"
    for database in map(str, range(servers.databases)):
        servers.cli(servers.ports[0], "-c", "-n", database, "EVAL", script, "1", TAG, f"{database}/")


def primaries(servers: ValkeyServers) -> list[int]:
    return [port for port in servers.ports if "master" in servers.cli(port, "ROLE")]


def place(servers: ValkeyServers) -> tuple[str, int, list[int]]:
    """Return the slot of the keys, its owner and the other primaries."""
    slot = servers.cli(servers.ports[0], "CLUSTER", "KEYSLOT", TAG)
    found = primaries(servers)
    owner = next(port for port in found if _owns(servers, port, TAG))
    return slot, owner, [port for port in found if port != owner]


def _owns(servers: ValkeyServers, port: int, key: str) -> bool:
    return "MOVED" not in servers.cli(port, "GET", key, check=False)


def identity(servers: ValkeyServers, port: int) -> str:
    return servers.cli(port, "CLUSTER", "MYID")


def healed(servers: ValkeyServers) -> dict:
    """Converge twice, the second time without a change, and look for all keys."""
    result = run_module("valkey_cluster", arguments(servers))
    servers.witness()
    assert not any("[" in view for view in servers.all("CLUSTER", "NODES").values())
    assert not run_module("valkey_cluster", arguments(servers))["changed"]
    slot, owner, _others = place(servers)
    for database in map(str, range(servers.databases)):
        for number in (1, NUMBER // 2, NUMBER):
            assert servers.cli(owner, "-n", database, "GET", f"{TAG}{number}") == f"{database}/{number}"
        assert servers.cli(owner, "-n", database, "CLUSTER", "COUNTKEYSINSLOT", slot) == str(NUMBER)
    return result


def send(servers: ValkeyServers, source: int, target: int, key: str, database: int = 0) -> None:
    """Move one key as a run that is killed does."""
    number = str(database)
    servers.cli(source, "-n", number, "MIGRATE", "127.0.0.1", str(target), key, number, "5000")


def test_an_importing_mark_alone_is_finished(servers: ValkeyServers) -> None:
    slot, owner, [target, _other] = place(servers)
    servers.cli(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", identity(servers, owner))
    result = healed(servers)
    assert any(line.startswith(f"finish {slot}") for line in result["done"])
    # Balance may ask for another slot in return, which may be the same.
    assert result["keys_moved"] >= NUMBER


def test_a_migrating_mark_alone_is_cleared(servers: ValkeyServers) -> None:
    slot, owner, [target, _other] = place(servers)
    servers.cli(owner, "CLUSTER", "SETSLOT", slot, "MIGRATING", identity(servers, target))
    assert any(line.startswith(f"clear marks of {slot}") for line in healed(servers)["done"])


def test_of_two_importers_the_one_that_the_owner_means_gets_the_slot(servers: ValkeyServers) -> None:
    slot, owner, [one, two] = place(servers)
    for port in (one, two):
        servers.cli(port, "CLUSTER", "SETSLOT", slot, "IMPORTING", identity(servers, owner))
    servers.cli(owner, "CLUSTER", "SETSLOT", slot, "MIGRATING", identity(servers, two))
    names = {node["port"]: f"{node['host']}:{node['port']}" for node in servers.nodes()}
    assert f"finish {slot} {names[owner]} -> {names[two]}" in healed(servers)["done"]


def test_keys_with_two_importers_are_not_touched(servers: ValkeyServers) -> None:
    slot, owner, [one, two] = place(servers)
    for number, port in enumerate((one, two)):
        servers.cli(port, "CLUSTER", "SETSLOT", slot, "IMPORTING", identity(servers, owner))
        servers.cli(owner, "CLUSTER", "SETSLOT", slot, "MIGRATING", identity(servers, port))
        send(servers, owner, port, f"{TAG}{number + 1}", database=number * (servers.databases - 1))
    message = fail_module("valkey_cluster", arguments(servers))
    assert f"slot {slot}" in message
    assert "(1 keys) and" in message
    last = str(servers.databases - 1)
    assert servers.cli(one, "CLUSTER", "COUNTKEYSINSLOT", slot) == "1"
    assert servers.cli(two, "-n", last, "CLUSTER", "COUNTKEYSINSLOT", slot) == "1"
    # As docs/slots.md says: one after the other.
    servers.cli(two, "CLUSTER", "SETSLOT", slot, "STABLE")
    run_module("valkey_cluster", arguments(servers))
    servers.cli(two, "CLUSTER", "SETSLOT", slot, "IMPORTING", identity(servers, place(servers)[1]))
    healed(servers)


def test_a_slot_without_owner_goes_to_whom_has_its_keys(servers: ValkeyServers) -> None:
    slot, owner, _others = place(servers)
    for port in primaries(servers):
        servers.cli(port, "CLUSTER", "DELSLOTS", slot, check=False)
    planned = run_module("valkey_cluster", arguments(servers), check=True)
    assert any(line.startswith(f"{slot} -> ") for line in planned["plan"])
    healed(servers)
    assert place(servers)[1] == owner


def test_a_slot_without_owner_and_keys_in_two_places_is_not_touched(servers: ValkeyServers) -> None:
    slot, owner, [other, _third] = place(servers)
    servers.cli(other, "CLUSTER", "SETSLOT", slot, "IMPORTING", identity(servers, owner))
    servers.cli(owner, "CLUSTER", "SETSLOT", slot, "MIGRATING", identity(servers, other))
    send(servers, owner, other, f"{TAG}1", database=servers.databases - 1)
    for port in primaries(servers):
        servers.cli(port, "CLUSTER", "DELSLOTS", slot, check=False)
    message = fail_module("valkey_cluster", arguments(servers))
    assert f"slot {slot} has no owner" in message
    assert f"({NUMBER * servers.databases - 1} keys)" in message
    # As docs/slots.md says.
    servers.cli(owner, "CLUSTER", "ADDSLOTS", slot)
    servers.cli(other, "CLUSTER", "SETSLOT", slot, "IMPORTING", identity(servers, owner))
    healed(servers)


def test_a_mark_that_only_a_replica_has_is_cleared(servers: ValkeyServers) -> None:
    slot, owner, [target, _other] = place(servers)
    me = identity(servers, target)
    replica = next(port for port in servers.ports if f"myself,slave {me}" in servers.cli(port, "CLUSTER", "NODES"))
    servers.cli(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", identity(servers, owner))
    wait_for(lambda: f"[{slot}-<-" in servers.cli(replica, "CLUSTER", "NODES"))
    # The replica misses that the mark is taken back: it is away, and the backlog is too short for what happens meanwhile.
    servers.processes[replica].send_signal(signal.SIGSTOP)
    servers.cli(target, "CLIENT", "KILL", "TYPE", "replica")
    servers.cli(target, "CLUSTER", "SETSLOT", slot, "STABLE", check=False)
    far = next(number for number in range(1000) if _owns(servers, target, f"{{{number}}}"))
    for _turn in range(40):
        servers.cli(target, "SET", f"{{{far}}}", "x" * 4096)
    servers.processes[replica].send_signal(signal.SIGCONT)
    wait_for(lambda: "master_link_status:up" in servers.cli(replica, "INFO", "replication"))
    # A full resynchronisation does not take marks back.
    assert f"[{slot}-<-" in servers.cli(replica, "CLUSTER", "NODES")
    healed(servers)


@pytest.mark.parametrize("version", ["8.1", "9.1"])
def test_a_drained_primary_that_follows_another_leads_again(version: str) -> None:
    """Drained by another tool, with migration of replicas allowed, a primary becomes a replica; it is wanted back."""
    with ValkeyServers(version, 4, settings={"cluster-allow-replica-migration": "yes"}) as servers:
        # It has few slots, which valkey-cli moves one by one.
        nodes = [{**node, "weight": weight} for node, weight in zip(servers.nodes(), (1, 1, 1, 0.01), strict=True)]
        wish = arguments(servers, nodes=nodes, replicas=0)
        run_module("valkey_cluster", wish)
        first, last = servers.ports[0], servers.ports[-1]
        words = ["--cluster", "rebalance", f"127.0.0.1:{first}", "--cluster-weight", f"{identity(servers, last)}=0"]
        servers.cli(0, *words)
        wait_for(lambda: "slave" in servers.cli(last, "ROLE"))
        result = run_module("valkey_cluster", wish)
        assert any(line.startswith("reset replica") for line in result["done"])
        servers.witness()
        assert len(primaries(servers)) == 4
        assert not run_module("valkey_cluster", wish)["changed"]
