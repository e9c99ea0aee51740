# SPDX-License-Identifier: Apache-2.0
"""The program that keeps etcd's leadership off the primary's host, with etcd and Patroni played."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.client import UnreachableError
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.rest import PatroniError, UntrustedError
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

HOSTS = ["192.0.2.11:2379", "192.0.2.12:2379", "192.0.2.13:2379"]
CONFIG = {
    "restapi": {"connect_address": "192.0.2.11:8008", "cafile": "ca", "certfile": "pem"},
    "etcd3": {"hosts": HOSTS, "cacert": "ca", "cert": "pem"},
}


class Etcd:
    """Three members; down and learners name hosts. moves: (asked host, target)."""

    def __init__(self, leader: str, down: tuple[str, ...] = (), learners: tuple[str, ...] = ()) -> None:
        self.leader, self.down, self.learners = leader, down, learners
        self.moves: list[tuple[str, str]] = []

    def at(self, host: str, store: dict, password: str) -> Any:
        etcd = self
        assert password == "secret"
        if host in self.down:
            raise UnreachableError(host, "timed out")

        class Member:
            def ask(self, path: str, body: dict | None = None) -> dict:
                if path == "/v3/maintenance/status":
                    return {"leader": etcd.leader, "header": {"member_id": host}, "isLearner": host in etcd.learners}
                assert path == "/v3/maintenance/transfer-leadership" and body is not None
                etcd.moves.append((host, body["targetID"]))
                return {}

        return Member()


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, load: Callable[[str], ModuleType]) -> ModuleType:
    module = load("etcd_leader_away")
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0)
    return module


def move(program: ModuleType, etcd: Etcd, config: dict | None = None) -> str:
    program.etcd_at = etcd.at
    return program.move(config or CONFIG, "secret")


def test_it_moves_to_another_member(program: ModuleType) -> None:
    etcd = Etcd(leader=HOSTS[0])
    assert move(program, etcd) == "moved etcd's leadership from 192.0.2.11:2379 to 192.0.2.12:2379"
    assert etcd.moves == [(HOSTS[0], HOSTS[1])]


def test_it_passes_over_the_dead_and_learners(program: ModuleType) -> None:
    etcd = Etcd(leader=HOSTS[0], down=(HOSTS[1],))
    move(program, etcd)
    assert etcd.moves == [(HOSTS[0], HOSTS[2])]
    etcd = Etcd(leader=HOSTS[0], learners=(HOSTS[1],))
    move(program, etcd)
    assert etcd.moves == [(HOSTS[0], HOSTS[2])]


def test_it_leaves_a_leader_elsewhere_alone(program: ModuleType) -> None:
    etcd = Etcd(leader=HOSTS[2])
    assert move(program, etcd) == ""
    assert etcd.moves == []


def test_it_has_nothing_to_do_without_a_member_here(program: ModuleType) -> None:
    elsewhere = {**CONFIG, "restapi": {**CONFIG["restapi"], "connect_address": "[2001:db8::1]:8008"}}
    assert move(program, Etcd(leader=HOSTS[0]), elsewhere) == ""


def test_it_finds_its_member_by_ipv6(program: ModuleType) -> None:
    hosts = ["[2001:db8::1]:2379", "[2001:db8::2]:2379"]
    config = {
        "restapi": {"connect_address": "[2001:db8::1]:8008"},
        "etcd3": {"hosts": hosts, "cacert": "ca", "cert": "pem"},
    }
    etcd = Etcd(leader=hosts[0])
    move(program, etcd, config)
    assert etcd.moves == [(hosts[0], hosts[1])]


def test_it_says_why_nobody_can_lead(program: ModuleType) -> None:
    etcd = Etcd(leader=HOSTS[0], down=(HOSTS[1],), learners=(HOSTS[2],))
    with pytest.raises(Refusal, match=r"no other member of etcd can lead: 192.0.2.12:2379: timed out; .* is a learner"):
        move(program, etcd)


class Patroni:
    """Patroni's REST API that answers GET /leader with one status after the other; 0 is no answer. called: members that were woken."""

    url = "https://192.0.2.11:8008"
    called: list[str]

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)

    def get(self, path: str) -> Any:
        assert path == "/leader"
        status = self.answers.pop(0)
        if status != 200:
            raise PatroniError(self.url, "refused", "", status or None)
        return {}


@pytest.mark.parametrize(
    ("answers", "wait", "leads"), [((200,), 0, True), ((503,), 0, False), ((0,), 0, False), ((0, 503, 200), 60, True)]
)
def test_only_the_leader_acts(program: ModuleType, answers: tuple[int, ...], wait: int, leads: bool) -> None:
    patroni = Patroni(*answers)
    assert program.is_leader(patroni, wait) is leads
    assert patroni.answers == []


def test_an_unexpected_answer_is_an_error(program: ModuleType) -> None:
    with pytest.raises(PatroniError, match="refused"):
        program.is_leader(Patroni(403), 0)


def test_a_certificate_that_is_not_trusted_is_an_error(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    patroni = Patroni()

    def get(path: str) -> Any:
        raise UntrustedError(patroni.url, "its certificate is not trusted", "")

    monkeypatch.setattr(patroni, "get", get)
    with pytest.raises(UntrustedError):
        program.is_leader(patroni, 60)


def test_the_others_are_woken_and_this_member_is_not(program: ModuleType) -> None:
    woken = []

    class Member:
        def __init__(self, url: str) -> None:
            self.url = url or "https://192.0.2.11:8008"

        def get(self, path: str) -> Any:
            if path == "/config":
                return {"loop_wait": 5, "ttl": 20}
            names = {"node1": "192.0.2.11", "node2": "192.0.2.12", "node3": "192.0.2.13"}
            return {
                "members": [
                    {
                        "name": name,
                        "role": "replica",
                        "state": "streaming",
                        "host": host,
                        "port": 5432,
                        "api_url": f"https://{host}:8008/patroni",
                    }
                    for name, host in names.items()
                ]
            }

        def patch(self, path: str, body: dict) -> None:
            woken.append((self.url, path, body))
            raise PatroniError(self.url, "no answer", "")

    program.patroni_at = lambda config, url="": Member(url)
    program.wake_others(CONFIG)
    assert sorted(woken) == [(f"https://192.0.2.{end}:8008", "/config", {"loop_wait": 5}) for end in (12, 13)]
