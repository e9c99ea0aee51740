# SPDX-License-Identifier: Apache-2.0
"""The modules for Patroni against its REST API over mutual TLS, played by a small server that keeps a configuration."""

from __future__ import annotations

import copy
import datetime
import http.server
import json
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.certificates import (
    Authority,
    Wish,
    certificate_pem,
    issue,
    leaf_pem,
    make_authority,
    make_key,
)
from run_module import fail_module, run_module

SYSTEM = "7711149091995491723"
TIMINGS = {"ttl": 20, "loop_wait": 5, "retry_timeout": 5}


class Patroni(http.server.ThreadingHTTPServer):
    """One member. It patches by the rules that Patroni documents and counts the patches."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server_port}"
        self.config: dict[str, Any] = {**TIMINGS, "postgresql": {"parameters": {"work_mem": "4MB"}}, "pause": True}
        self.patches: list[dict[str, Any]] = []
        self.late = 0
        self.refuse = 0

    def members(self) -> list[dict[str, Any]]:
        """Return the members; the replica follows after `late` more requests."""
        self.late -= 1
        state = "streaming" if self.late < 0 else "creating replica"
        return [
            {
                "name": "node1",
                "role": "leader",
                "state": "running",
                "api_url": "",
                "timeline": 2,
                "pending_restart": True,
            },
            {"name": "node2", "role": "quorum_standby", "state": state, "api_url": "", "timeline": 2, "lag": 0},
        ]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are refused are what some tests are about."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Patroni

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def answer(self, status: int, body: Any) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_GET(self) -> None:
        answers = {
            "/cluster": lambda: {"members": self.server.members(), "scope": "lab"},
            "/config": lambda: self.server.config,
            "/history": lambda: [[1, 16777216, "no recovery target specified", "2026-11-23T00:04:30+00:00", "node1"]],
            "/patroni": lambda: {"patroni": {"scope": "lab"}, "database_system_identifier": SYSTEM},
        }
        self.answer(503 if self.path == "/patroni" else 200, answers[self.path]())

    def do_PATCH(self) -> None:
        patch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.refuse:
            self.answer(self.server.refuse, "Access is denied")
            return
        self.server.patches.append(patch)
        merge(self.server.config, patch)
        self.answer(200, self.server.config)


def merge(config: dict[str, Any], patch: dict[str, Any]) -> None:
    """Merge as Patroni does: null removes, mappings merge, the rest replaces."""
    for key, value in patch.items():
        if value is None:
            config.pop(key, None)
        elif isinstance(value, dict) and isinstance(config.get(key), dict):
            merge(config[key], value)
        else:
            config[key] = value


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.crt and member.pem of one authority, and stranger.crt, stranger.pem of another."""
    folder = tmp_path_factory.mktemp("tls")
    now = datetime.datetime.now(datetime.UTC)
    for authority_file, leaf_file in (("ca.crt", "member.pem"), ("stranger.crt", "stranger.pem")):
        key = make_key()
        authority = Authority((make_authority("lab", key, now, 1),), key)
        (folder / authority_file).write_bytes(certificate_pem(authority.certificates))
        (folder / leaf_file).write_bytes(leaf_pem(issue(Wish("lab", "node1", ("127.0.0.1",)), authority, now, 1)))
    return folder


@pytest.fixture
def patroni(files: Path) -> Iterator[Patroni]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files / "ca.crt"))
    context.load_cert_chain(files / "member.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with Patroni(context) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def connection(files: Path, patroni: Patroni) -> dict[str, Any]:
    return {
        "url": patroni.url,
        "ca_cert": str(files / "ca.crt"),
        "client_cert": str(files / "member.pem"),
        "timeout": 5,
    }


def test_config_check_mode_change_and_repeat(patroni: Patroni, connection: dict[str, Any]) -> None:
    wish = {**connection, "config": {"postgresql": {"parameters": {"work_mem": "8MB"}}}}
    before = copy.deepcopy(patroni.config)

    told = run_module("patroni_config", wish, check=True)
    assert told["changed"]
    assert patroni.config == before
    assert not patroni.patches

    done = run_module("patroni_config", wish)
    assert done["changed"]
    assert done["diff"] == told["diff"]
    assert patroni.patches == [{"postgresql": {"parameters": {"work_mem": "8MB"}}}]
    assert done["config"] == patroni.config
    assert done["pending_restart"] == ["node1"]

    assert not run_module("patroni_config", wish)["changed"]
    assert len(patroni.patches) == 1


def test_config_purge_removes_what_is_not_declared_but_not_the_pause(
    patroni: Patroni, connection: dict[str, Any]
) -> None:
    run_module("patroni_config", {**connection, "config": TIMINGS, "purge": True})
    assert patroni.config == {**TIMINGS, "pause": True}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"loop_wait": 12}, "12 + 2 * 5 = 22 s, allowed is at most ttl = 20 s"),
        ({"ttl": 15}, "ttl is 15 s, allowed is 20 s or more"),
        ({"failsave_mode": True}, "did you mean failsafe_mode?"),
    ],
)
def test_config_refuses_before_it_sends(patroni: Patroni, connection: dict[str, Any], config: dict, said: str) -> None:
    for check in (True, False):
        assert said in fail_module("patroni_config", {**connection, "config": config}, check=check)
    assert not patroni.patches


def test_config_tells_that_it_is_refused(patroni: Patroni, connection: dict[str, Any]) -> None:
    patroni.refuse = 403
    message = fail_module("patroni_config", {**connection, "config": {"ttl": 30}})
    assert "PATCH answered 403" in message
    assert "run it on a host of the group postgresql" in message


def test_cluster_info(connection: dict[str, Any]) -> None:
    result = run_module("patroni_cluster_info", connection)
    assert not result["changed"]
    assert (result["leader"], result["timeline"], result["synchronous"]) == ("node1", 2, ["node2"])
    assert result["pending_restart"] == ["node1"]
    assert result["history"][0]["new_leader"] == "node1"


def test_cluster_info_waits(patroni: Patroni, connection: dict[str, Any]) -> None:
    patroni.late = 2
    run_module("patroni_cluster_info", {**connection, "wait": 30, "expect": {"members": ["node1", "node2"]}})
    assert patroni.late == -1


def test_cluster_info_says_what_is_not_as_expected(connection: dict[str, Any]) -> None:
    expect = {"members": ["node1", "node3"], "minimum_synchronous": 2}
    message = fail_module("patroni_cluster_info", {**connection, "expect": expect})
    assert "node3 is not a member yet; synchronous standbys: node2; at least 2 wanted." in message


def test_no_answer_is_unmet(patroni: Patroni, connection: dict[str, Any]) -> None:
    nobody = {**connection, "url": "https://127.0.0.1:1", "expect": {"members": ["node1"]}}
    assert "no answer" in fail_module("patroni_cluster_info", nobody)


def test_an_untrusted_member_is_not_waited_for(files: Path, connection: dict[str, Any]) -> None:
    wish = {**connection, "ca_cert": str(files / "stranger.crt"), "wait": 600, "expect": {"members": ["node1"]}}
    assert "its certificate is not trusted" in fail_module("patroni_cluster_info", wish)


def test_a_client_certificate_of_a_stranger_is_refused(files: Path, connection: dict[str, Any]) -> None:
    wish = {**connection, "client_cert": str(files / "stranger.pem")}
    assert "no answer" in fail_module("patroni_cluster_info", wish)


def data_directory(path: Path, system: str = SYSTEM, version: str = "17") -> Path:
    (path / "global").mkdir(parents=True)
    (path / "PG_VERSION").write_text(version + "\n")
    (path / "global" / "pg_control").write_bytes(int(system).to_bytes(8, sys.byteorder) + bytes(100))
    return path


def test_data_directory(patroni: Patroni, connection: dict[str, Any], tmp_path: Path) -> None:
    nobody = {**connection, "url": "https://127.0.0.1:1", "cluster_name": "lab", "version": 17}
    beside = {**nobody, "peers": ["https://127.0.0.1:1", patroni.url]}
    ours = str(data_directory(tmp_path / "ours"))
    foreign = str(data_directory(tmp_path / "foreign", system="42"))

    assert run_module("patroni_data_directory", {**beside, "path": str(tmp_path / "missing")})["state"] == "empty"
    assert run_module("patroni_data_directory", {**beside, "path": ours})["state"] == "ours"
    assert "belongs to the database system 42" in fail_module("patroni_data_directory", {**beside, "path": foreign})
    assert "never ran under Patroni" in fail_module("patroni_data_directory", {**nobody, "path": ours})
    running = {**beside, "url": patroni.url, "path": foreign}
    assert run_module("patroni_data_directory", running)["state"] == "running"
    renamed = {**running, "cluster_name": "orders"}
    assert "this host runs the cluster lab" in fail_module("patroni_data_directory", renamed)
