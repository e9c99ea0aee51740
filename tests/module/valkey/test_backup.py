# SPDX-License-Identifier: Apache-2.0
"""Backups and restores of real clusters under a writing client; killed at random points, tampered with, into other shapes."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import valkey_load
import yaml
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import store
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.restore_source import left
from run_module import ModuleFailedError, fail_module, finish, run_module, start
from valkey_servers import ValkeyServers

KEYS = 5000
HASHES = 10
# `make backup-kills` kills ten times each.
KILLS = int(os.environ.get("HOLDFAST_KILLS", "3"))
SETTINGS = {"maxmemory": "0", "repl-diskless-sync-delay": "0"}
DAY = 86_400_000


def where(servers: ValkeyServers, folder: Path, **more: object) -> dict[str, Any]:
    """Options that both modules have."""
    nodes = [f"127.0.0.1:{port}" for port in servers.ports]
    return {"nodes": nodes, "cluster": "test", "backup_dir": str(folder), **servers.login, **more}


def restoring(servers: ValkeyServers, folder: Path, **more: object) -> dict[str, Any]:
    """Options of valkey_restore."""
    return where(servers, folder, server_program=str(servers.programs / "valkey-server"), **more)


def form(servers: ValkeyServers, replicas: int = 0) -> None:
    """Make servers a cluster."""
    run_module(
        "valkey_cluster", {"nodes": servers.nodes(max(3, servers.number)), "replicas": replicas, **servers.login}
    )


def fill(servers: ValkeyServers) -> dict[str, int]:
    """Write data of all types, some with an end, and keys to all databases. Returns the ends by key."""
    valkey_load.fill(servers.ports[0], KEYS, HASHES, servers.login, servers.databases)
    client = valkey_load.cluster_client(servers.ports[0], servers.login)
    client.rpush("list", *range(500))
    client.sadd("set", *range(500))
    client.zadd("zset", {f"member{n}": n for n in range(500)})
    client.xadd("stream", {"field": "value"})
    ends = {f"end:{number}": int(time.time() * 1000) + DAY + number * 1000 for number in range(50)}
    for key, end in ends.items():
        client.set(key, key, pxat=end)
    client.set("soon", "gone before any restore", px=1)
    client.close()
    return ends


class Steps(threading.Thread):
    """A client that writes one key of each shard in turn; begun and done say how far it is."""

    def __init__(self, servers: ValkeyServers) -> None:
        super().__init__()
        self._servers = servers
        self._end = threading.Event()
        self.done = 0
        self.longest = 0.0
        tags = {}
        for number in range(1000):
            tags.setdefault(valkey_load.slot_of(str(number)) * 3 // 16384, f"step:{{{number}}}")
        self.keys = [tags[shard] for shard in sorted(tags)]

    def __enter__(self) -> Steps:
        self.start()
        while not self.done:
            time.sleep(0.01)
        return self

    def __exit__(self, *_details: object) -> None:
        self._end.set()
        self.join()

    def run(self) -> None:
        client = valkey_load.cluster_client(self._servers.ports[0], self._servers.login)
        while not self._end.is_set():
            for key in self.keys:
                begin = time.monotonic()
                client.set(key, self.done + 1)
                self.longest = max(self.longest, time.monotonic() - begin)
            self.done += 1
        client.close()


def check_restored(servers: ValkeyServers, ends: dict[str, int]) -> None:
    """All that was filled is there, with its ends."""
    assert valkey_load.missing(servers.ports[0], KEYS, HASHES, servers.login, servers.databases) == []
    client = valkey_load.cluster_client(servers.ports[0], servers.login)
    assert client.lrange("list", 0, -1) == [str(n) for n in range(500)]
    assert set(client.smembers("set")) == {str(n) for n in range(500)}
    assert client.zscore("zset", "member7") == 7
    assert client.xlen("stream") == 1
    assert client.get("soon") is None
    for key, end in ends.items():
        assert client.get(key) == key
        assert abs(client.pexpiretime(key) - end) <= 2000
    client.close()


@pytest.mark.parametrize(
    ("version", "kind", "secure", "shapes"),
    [
        ("8.1", "rdb", True, (3, 4, 5)),
        ("9.1", "rdb", False, (5,)),
        ("9.1", "aof", True, (4,)),
        ("8.1", "aof", False, (3,)),
    ],
)
def test_one_moment_of_all_shards_into_any_number(
    tmp_path: Path, version: str, kind: str, secure: bool, shapes: tuple[int, ...]
) -> None:
    """Under a client that writes shard after shard: the backup is a moment of its writes, and is all of it afterwards."""
    databases = {"8.1": 1, "9.1": 4}[version]
    with ValkeyServers(version, 6, secure, SETTINGS, databases) as servers:
        form(servers, 1)
        ends = fill(servers)
        with Steps(servers) as steps:
            before = steps.done
            made = run_module("valkey_backup", where(servers, tmp_path, kind=kind))
            after = steps.done
        assert made["attempts"] <= 5
        assert made["held_ms"] < 500
        manifest = json.loads((Path(made["folder"]) / "manifest.json").read_text())
        assert "password" not in json.dumps(manifest["position"]).lower()
        for shard in manifest["position"]["shards"]:
            assert shard["databases"] == list(range(databases))
            assert {sample["database"] for sample in shard["samples"]} <= set(range(databases))
        sampled = {sample["database"] for shard in manifest["position"]["shards"] for sample in shard["samples"]}
        assert sampled == set(range(databases))
        assert not store.look(str(tmp_path), "valkey", made["label"], deep=True).problems
        assert all(path.stat().st_mode & 0o077 == 0 for path in Path(made["folder"]).rglob("*.rdb"))
    for number in shapes:
        with ValkeyServers(version, number, secure, SETTINGS, databases) as servers:
            form(servers)
            assert run_module("valkey_restore", restoring(servers, tmp_path), check=True)["label"] == made["label"]
            assert set(servers.all("DBSIZE").values()) == {"0"}
            done = run_module("valkey_restore", restoring(servers, tmp_path, compare=0))
            assert done["remaining"] == 0
            assert done["compared"] >= KEYS
            check_restored(servers, ends)
            client = valkey_load.cluster_client(servers.ports[0], servers.login)
            seen = [int(client.get(key)) for key in steps.keys]
            client.close()
            assert seen == sorted(seen, reverse=True)
            assert seen[0] - seen[-1] <= 1
            assert before <= seen[-1]
            assert seen[0] <= after + 1
            assert "holds" in fail_module("valkey_restore", restoring(servers, tmp_path))


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, dict[str, int]]]:
    """A good backup of Valkey 9.1, of servers that are gone."""
    folder = tmp_path_factory.mktemp("backups")
    with ValkeyServers("9.1", 3, settings=SETTINGS) as servers:
        form(servers)
        ends = fill(servers)
        made = run_module("valkey_backup", where(servers, folder))
    yield folder, made["label"], ends


def copied(backup: tuple[Path, str, dict[str, int]], folder: Path) -> Path:
    """Copy a backup; return its folder."""
    shutil.copytree(backup[0], folder, dirs_exist_ok=True)
    return folder / "valkey" / backup[1]


@pytest.mark.parametrize("told", [True, False], ids=["manifest", "settings"])
def test_a_cluster_with_fewer_databases_is_refused(tmp_path: Path, told: bool) -> None:
    """Before the first key; a manifest that does not say which databases have keys stands for all that its servers had."""
    with ValkeyServers("9.1", 3, settings=SETTINGS, databases=4) as servers:
        form(servers)
        client = valkey_load.cluster_client(servers.ports[0], {}, 2)
        for number in range(100):
            client.set(f"key:{number}", number)
        client.close()
        made = run_module("valkey_backup", where(servers, tmp_path))
    path = Path(made["folder"]) / "manifest.json"
    manifest = json.loads(path.read_text())
    if not told:
        for shard in manifest["position"]["shards"]:
            del shard["databases"]
        path.write_text(json.dumps(manifest))
    needed = 3 if told else 4
    with ValkeyServers("9.1", 3, settings=SETTINGS, databases=needed - 1) as servers:
        form(servers)
        for check in (True, False):
            message = fail_module("valkey_restore", restoring(servers, tmp_path), check=check)
            assert f"the backup needs {needed} databases, 127.0.0.1:{servers.ports[0]} has cluster-databases" in message
        assert set(servers.all("INFO", "keyspace").values()) == {"# Keyspace"}
        assert not (tmp_path / "restore").exists()
    with ValkeyServers("9.1", 3, settings=SETTINGS, databases=needed) as servers:
        form(servers)
        assert run_module("valkey_restore", restoring(servers, tmp_path, compare=0))["compared"] == 100


def test_what_is_not_whole_or_too_new_is_refused(backup: tuple[Path, str, dict[str, int]], tmp_path: Path) -> None:
    """A flipped byte, a missing file, a manifest that lost a shard, servers that are older: nothing is written."""
    with ValkeyServers("9.1", 3, settings=SETTINGS) as servers:
        form(servers)
        flipped = copied(backup, tmp_path / "flipped") / "shard-05462.rdb"
        content = bytearray(flipped.read_bytes())
        content[len(content) // 2] ^= 1
        flipped.write_bytes(content)
        label = backup[1]
        message = fail_module("valkey_restore", restoring(servers, tmp_path / "flipped", label=label))
        assert "shard-05462.rdb has another content than was written (SHA-256)" in message
        (copied(backup, tmp_path / "missing") / "shard-10923.rdb").unlink()
        message = fail_module("valkey_restore", restoring(servers, tmp_path / "missing", label=label))
        assert "shard-10923.rdb is missing" in message
        text = copied(backup, tmp_path / "lost") / "manifest.json"
        manifest = json.loads(text.read_text())
        manifest["position"]["shards"].pop(0)
        text.write_text(json.dumps(manifest))
        assert "slots 0-5461 are in no file" in fail_module(
            "valkey_restore", restoring(servers, tmp_path / "lost", label=label)
        )
        assert "there is no backup" in fail_module(
            "valkey_restore", restoring(servers, backup[0], label="20200101T000000Z")
        )
        assert set(servers.all("DBSIZE").values()) == {"0"}
    with ValkeyServers("8.1", 3, settings=SETTINGS) as servers:
        form(servers)
        message = fail_module("valkey_restore", restoring(servers, backup[0]))
        assert "the snapshot is of Valkey 9.1" in message
        assert set(servers.all("DBSIZE").values()) == {"0"}


def test_keys_that_are_there_are_kept_aside_and_come_back(
    backup: tuple[Path, str, dict[str, int]], tmp_path: Path
) -> None:
    """flush and replace make a backup first; going back restores it; without either nothing is touched."""
    copied(backup, tmp_path)
    with ValkeyServers("9.1", 3, settings=SETTINGS) as servers:
        form(servers)
        client = valkey_load.cluster_client(servers.ports[0], {})
        for number in range(100):
            client.set(f"old:{number}", number)
        client.set("own:end", "soon", px=DAY)
        wish = restoring(servers, tmp_path, label=backup[1])
        assert "holds 101 keys" in fail_module("valkey_restore", wish)
        done = run_module("valkey_restore", {**wish, "existing": "replace"})
        assert done["before"] > backup[1]
        check_restored(servers, backup[2])
        assert client.get("old:7") == "7"
        assert run_module("valkey_restore", {**wish, "action": "back"})["remaining"] == 0
        assert sum(int(size) for size in servers.all("DBSIZE").values()) == 101
        done = run_module("valkey_restore", {**wish, "existing": "flush"})
        check_restored(servers, backup[2])
        assert client.get("old:7") is None
        run_module("valkey_restore", {**wish, "action": "back"})
        assert client.get("old:7") == "7"
        assert "was undone already" in fail_module("valkey_restore", {**wish, "action": "back"})
        client.close()


def test_a_user_with_the_least_rights_is_enough(tmp_path: Path) -> None:
    """What the role lets its user `backup` do."""
    declared = yaml.safe_load((Path(__file__).parents[3] / "roles/valkey/vars/main.yml").read_text())
    with ValkeyServers("8.1", 3, True, SETTINGS) as servers:
        form(servers)
        fill(servers)
        servers.all("ACL", "SETUSER", "backup", "on", ">word", *declared["__valkey_backup_rules"].split())
        wish = where(servers, tmp_path, username="backup", password="word")
        assert run_module("valkey_backup", wish)["keys"] > KEYS
        assert run_module("valkey_backup", {**wish, "kind": "aof"})["keys"] > KEYS
        servers.all("ACL", "SETUSER", "backup", "-psync")
        assert "PSYNC" in fail_module("valkey_backup", wish)
        assert len(store.names(str(tmp_path), "valkey")) == 2


def kill_after(process: subprocess.Popen[str], seconds: float) -> bool:
    """Kill a module after so many seconds. Returns whether it still ran."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


def test_killed_backups_leave_nothing_that_looks_good(tmp_path: Path) -> None:
    """Whatever is called a backup is one, writes continue, and the next run removes what is left and succeeds."""
    chance = random.Random(7)
    with ValkeyServers("8.1", 3, settings=SETTINGS) as servers:
        form(servers)
        fill(servers)
        wish = where(servers, tmp_path)
        begin = time.monotonic()
        run_module("valkey_backup", wish)
        usual = time.monotonic() - begin
        killed = 0
        with Steps(servers) as steps:
            for _number in range(10 * KILLS):
                killed += kill_after(start("valkey_backup", wish), chance.uniform(0.2, usual))
                for found in store.read(str(tmp_path), "valkey", deep=True):
                    assert found.problems == ()
                written = steps.done
                time.sleep(0.6)
                assert steps.done > written
                if killed == KILLS:
                    break
        assert killed == KILLS
        run_module("valkey_backup", wish)
        assert not [name for name in store.names(str(tmp_path), "valkey") if name.endswith(".partial")]


def test_killed_restores_go_on(backup: tuple[Path, str, dict[str, int]], tmp_path: Path) -> None:
    """Killed again and again, then run to the end by a budget of a moment: all is there, nothing runs any more."""
    chance = random.Random(11)
    copied(backup, tmp_path)
    killed = 0
    for _number in range(20 * KILLS):
        with ValkeyServers("9.1", 4, settings=SETTINGS) as servers:
            form(servers)
            wish = restoring(servers, tmp_path, label=backup[1])
            for _again in range(3):
                if not kill_after(start("valkey_restore", wish), chance.uniform(0.2, 1.2)):
                    break
                killed += 1
            rounds = 1
            while (result := last(wish))["remaining"]:
                rounds += 1
                assert rounds < 100
            check_restored(servers, backup[2])
            if "keys" in result:
                assert sum(int(size) for size in servers.all("DBSIZE").values()) == result["keys"]
        if killed >= KILLS:
            break
    assert killed >= KILLS
    assert left(str(tmp_path / "valkey" / backup[1])) == []


def last(wish: dict[str, Any]) -> dict[str, Any]:
    """Run a restore for a moment. A run that was killed after its end left nothing to do: the cluster is full then."""
    try:
        return finish(start("valkey_restore", {**wish, "time_budget": 0.1}))
    except ModuleFailedError as error:
        if "the cluster holds" not in str(error):
            raise
        return {"remaining": 0}


def test_a_failed_restore_leaves_nothing(backup: tuple[Path, str, dict[str, int]], tmp_path: Path) -> None:
    copied(backup, tmp_path)
    with ValkeyServers("9.1", 3, settings=SETTINGS) as servers:
        form(servers)
        program = tmp_path / "valkey-server"
        version = f'"{servers.programs}/valkey-server" --version'
        program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec {version}\necho no such luck\nexit 1\n')
        program.chmod(0o755)
        told = fail_module(
            "valkey_restore", {**restoring(servers, tmp_path, label=backup[1]), "server_program": str(program)}
        )
        assert "did not start: no such luck" in told
        assert left(str(tmp_path / "valkey" / backup[1])) == []


def test_a_restore_that_lost_the_cluster_says_what_it_keeps(
    backup: tuple[Path, str, dict[str, int]], tmp_path: Path
) -> None:
    copied(backup, tmp_path)
    with ValkeyServers("9.1", 3, settings=SETTINGS) as servers:
        form(servers)
        wish = restoring(servers, tmp_path, label=backup[1], parallel=1)
        folder = str(tmp_path / "valkey" / backup[1])
        running = start("valkey_restore", wish)
        while not left(folder):
            assert running.poll() is None
            time.sleep(0.005)
        for process in servers.processes.values():
            process.kill()
        with pytest.raises(ModuleFailedError) as failed:
            finish(running)
        kept = left(folder)
        assert kept and f"{', '.join(kept)} stays on this host for up to 6 h; action back ends it" in str(failed.value)
        for path in kept:
            cli = [str(servers.programs / "valkey-cli"), "-s", f"{path}/s", "SHUTDOWN", "NOSAVE"]
            subprocess.run(cli, check=True, capture_output=True)
            shutil.rmtree(path)


def test_an_unfinished_restore_goes_back_to_nothing(backup: tuple[Path, str, dict[str, int]], tmp_path: Path) -> None:
    """Into an empty cluster: it is empty again, and another restore may begin."""
    copied(backup, tmp_path)
    with ValkeyServers("9.1", 3, settings=SETTINGS) as servers:
        form(servers)
        wish = restoring(servers, tmp_path, label=backup[1], time_budget=0.01)
        run_module("valkey_restore", wish)
        run_module("valkey_restore", {**wish, "action": "back"})
        assert set(servers.all("DBSIZE").values()) == {"0"}
        assert "no restore was begun" in fail_module("valkey_restore", {**wish, "action": "back"})


def test_a_server_that_died_meanwhile_begins_again(backup: tuple[Path, str, dict[str, int]], tmp_path: Path) -> None:
    """Another process scans in another order: where the last one stood means nothing to it."""
    copied(backup, tmp_path)
    with ValkeyServers("9.1", 3, settings=SETTINGS) as servers:
        form(servers)
        wish = restoring(servers, tmp_path, label=backup[1], parallel=1)
        while not run_module("valkey_restore", {**wish, "time_budget": 0.01})["keys"]:
            continue
        state = json.loads((tmp_path / "restore/valkey.json").read_text())
        assert [part["cursor"] for part in state["parts"].values() if part["cursor"]]
        for folder in left(str(tmp_path / "valkey" / backup[1])):
            cli = [str(servers.programs / "valkey-cli"), "-s", f"{folder}/s", "INFO", "server"]
            told = subprocess.run(cli, capture_output=True, text=True, check=True).stdout
            os.kill(int(re.search(r"process_id:(\d+)", told)[1]), signal.SIGKILL)  # type: ignore[index]
        assert run_module("valkey_restore", wish)["remaining"] == 0
        check_restored(servers, backup[2])
