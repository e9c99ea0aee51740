# SPDX-License-Identifier: Apache-2.0
"""valkey_config on a real server: what it sets live, what waits for a restart, and runs that are killed."""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ports import free_ports
from run_module import fail_module, run_module, start
from valkey_servers import binaries, make_certificates

PASSWORD = "correct-horse"
USERS = "user default off\nuser admin on >{password} ~* &* +@all\n"


@dataclass
class Host:
    """One server of a host of its own: folders, port and socket."""

    folder: Path
    programs: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    users: str = USERS.format(password=PASSWORD)

    def arguments(self) -> dict[str, Any]:
        config = (
            "port 0\ntls-port {port}\nbind 127.0.0.1\nprotected-mode no\nsupervised no\ndaemonize no\n"
            f"unixsocket {self.folder}/{{port}}.sock\ndir {self.folder}/data-{{port}}\naclfile {self.folder}/users.acl\n"
            f"tls-cert-file {self.folder}/tls/node.pem\ntls-key-file {self.folder}/tls/node.pem\n"
            f"tls-ca-cert-file {self.folder}/tls/ca.crt\n"
        )
        return {
            "instances": [{"port": self.port, "maxmemory": "64mb"}],
            "config": config,
            "settings": self.settings,
            "acl": self.users,
            "password": PASSWORD,
            "previous_passwords": ["another-horse"],
            "replication_password": "staple",
            "version": "9.1",
            "config_dir": str(self.folder),
            "run_dir": str(self.folder / "run"),
            "owner": "root",
            "group": "root",
        }

    @property
    def config_file(self) -> Path:
        return self.folder / f"valkey-{self.port}.conf"

    def start(self) -> None:
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen([self.programs / "valkey-server", self.config_file], stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while self.ask("PING") != "PONG":
            assert time.monotonic() < deadline and self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def ask(self, *words: str) -> str:
        command = [
            self.programs / "valkey-cli",
            "-s",
            f"{self.folder}/{self.port}.sock",
            "--user",
            "admin",
            "--pass",
            PASSWORD,
        ]
        done = subprocess.run([*command, "--no-auth-warning", *words], check=False, capture_output=True, text=True)
        return done.stdout.strip()

    def live(self, name: str) -> str:
        return self.ask("CONFIG", "GET", name).partition("\n")[2]


@pytest.fixture
def host() -> Iterator[Host]:
    folder = Path(tempfile.mkdtemp(prefix="valkey-config-"))
    make_certificates(folder / "tls")
    found = Host(folder, binaries("9.1"), free_ports(1)[0])
    yield found
    found.stop()
    shutil.rmtree(folder)


def configure(host: Host, **kwargs: Any) -> dict[str, Any]:
    return run_module("valkey_config", host.arguments(), **kwargs)


def entry(result: dict[str, Any]) -> dict[str, Any]:
    [found] = result["instances"]
    return found


@pytest.fixture
def running(host: Host) -> Host:
    assert configure(host)["running"] is False
    host.start()
    return host


def test_files_before_the_server_and_nothing_the_second_time(host: Host) -> None:
    assert configure(host, check=True)["changed"]
    assert not host.config_file.exists()
    assert configure(host)["changed"]
    host.start()
    again = configure(host)
    assert (again["changed"], again["running"], again["restart_needed"]) == (False, True, [])
    assert host.live("maxmemory") == str(64 << 20)


def test_what_can_be_set_live_is_and_the_rest_waits_for_a_restart(running: Host) -> None:
    running.settings = {"maxmemory-policy": "allkeys-lru", "databases": 3}
    expected = {"live": ["maxmemory-policy"], "restart": ["databases"]}
    looked = configure(running, check=True)
    assert {name: entry(looked)[name] for name in expected} == expected
    assert running.live("maxmemory-policy") == "noeviction"
    done = configure(running)
    assert {name: entry(done)[name] for name in expected} == expected
    assert running.live("maxmemory-policy") == "allkeys-lru"
    assert done["restart_needed"] == [running.port]
    waiting = configure(running)
    assert (waiting["changed"], waiting["restart_needed"]) == (False, [running.port])
    running.restart()
    assert configure(running)["restart_needed"] == []
    assert running.live("databases") == "3"


def test_a_setting_that_left_waits_for_a_restart_until_there_was_one(running: Host) -> None:
    running.settings = {"maxmemory-policy": "allkeys-lru"}
    configure(running)
    running.settings = {}
    assert entry(configure(running))["restart"] == ["maxmemory-policy"]
    assert entry(configure(running))["restart"] == ["maxmemory-policy"]
    running.restart()
    assert entry(configure(running))["restart"] == []


def test_users_and_certificates_are_loaded_where_they_changed(running: Host) -> None:
    running.users += "user reader on >secret ~* +get\n"
    done = configure(running)
    assert entry(done)["loaded"] == [f"{running.folder}/users.acl"]
    assert "reader" in running.ask("ACL", "LIST")
    make_certificates(running.folder / "tls")
    loaded = entry(configure(running))["loaded"]
    assert loaded == [f"{running.folder}/tls/ca.crt", f"{running.folder}/tls/node.pem"]
    assert not configure(running)["changed"]


def test_users_that_the_server_refuses_stay_as_they_were(running: Host) -> None:
    before = (running.folder / "users.acl").read_text()
    running.users += "user broken on >secret nonsense\n"
    told = fail_module("valkey_config", running.arguments())
    assert f"valkey {running.port}: " in told and "Correct valkey_users; the servers keep the users they had" in told
    assert (running.folder / "users.acl").read_text() == before
    assert running.ask("PING") == "PONG"


def test_an_unknown_setting_is_refused_before_anything_changes(running: Host) -> None:
    running.settings = {"maxmemory-polici": "allkeys-lru"}
    told = fail_module("valkey_config", running.arguments())
    assert "has no setting maxmemory-polici. Did you mean maxmemory-policy?" in told
    assert "polici" not in running.config_file.read_text()


def test_fewer_databases_than_hold_keys_are_refused_before_anything_changes(host: Host) -> None:
    host.settings = {"cluster-enabled": "yes", "cluster-databases": "4", "tls-cluster": "yes"}
    configure(host)
    host.start()
    assert host.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383") == "OK"
    deadline = time.monotonic() + 30
    while "cluster_state:ok" not in host.ask("CLUSTER", "INFO"):
        assert time.monotonic() < deadline
    assert host.ask("-n", "2", "SET", "key", "value") == "OK"
    text = host.config_file.read_text()
    host.settings["cluster-databases"] = "2"
    told = fail_module("valkey_config", host.arguments())
    assert "cluster-databases 2 is too few, database 2 holds keys. Nothing was changed. Set it to 3 or more" in told
    assert host.config_file.read_text() == text
    host.settings["cluster-databases"] = "3"
    assert entry(configure(host))["restart"] == ["cluster-databases"]
    assert host.ask("SAVE") == "OK"
    host.restart()
    assert host.ask("-n", "2", "DBSIZE") == "1"
    assert not configure(host)["changed"]


def test_killed_at_any_moment_the_next_run_ends_the_same(running: Host) -> None:
    configure(running)
    chance = random.Random(15)
    for turn in range(6):
        running.settings = {
            "maxmemory-policy": ["allkeys-lru", "allkeys-lfu"][turn % 2],
            "databases": 3,
            "timeout": turn,
        }
        running.users = USERS.format(password=PASSWORD) + f"user reader{turn} on >secret ~* +get\n"
        killed = start("valkey_config", running.arguments())
        time.sleep(chance.uniform(0.2, 1.0))
        killed.kill()
        killed.communicate()
        assert entry(configure(running))["restart"] == ["databases"]
        again = configure(running)
        assert (again["changed"], entry(again)["restart"]) == (False, ["databases"])
        assert running.live("maxmemory-policy") == running.settings["maxmemory-policy"]
        assert f"reader{turn}" in running.ask("ACL", "LIST")
