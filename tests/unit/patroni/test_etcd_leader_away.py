"""The program that keeps etcd's leadership off the primary's host, with etcd and Patroni played."""

from __future__ import annotations

import io
import urllib.error
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

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

    def member(self, host: str, https: object) -> Any:
        etcd = self

        class Member:
            def status(self, password: str) -> dict:
                assert password == "secret"
                if host in etcd.down:
                    raise OSError("timed out")
                return {"leader": etcd.leader, "header": {"member_id": host}, "isLearner": host in etcd.learners}

            def call(self, path: str, body: dict[str, str]) -> dict:
                assert path == "maintenance/transfer-leadership"
                etcd.moves.append((host, body["targetID"]))
                return {}

        return Member()


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, load: Callable[[str], ModuleType]) -> ModuleType:
    module = load("etcd_leader_away")
    monkeypatch.setattr(module, "opener", lambda ca, client: None)
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0)
    return module


def move(program: ModuleType, etcd: Etcd, config: dict | None = None) -> str:
    program.Member = etcd.member
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
    with pytest.raises(OSError, match=r"no other member of etcd can lead: 192.0.2.12:2379: timed out; .* is a learner"):
        move(program, etcd)


class Rest:
    """Patroni's REST API that answers one status after the other; 0 is no answer."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)

    def open(self, url: str, timeout: float) -> Any:
        assert url == "https://192.0.2.11:8008/leader"
        status = self.answers.pop(0)
        if status == 0:
            raise ConnectionRefusedError
        if status != 200:
            raise urllib.error.HTTPError(url, status, "", {}, None)  # type: ignore[arg-type]
        return io.BytesIO()


@pytest.mark.parametrize(
    ("answers", "wait", "leads"), [((200,), 0, True), ((503,), 0, False), ((0,), 0, False), ((0, 503, 200), 60, True)]
)
def test_only_the_leader_acts(program: ModuleType, answers: tuple[int, ...], wait: int, leads: bool) -> None:
    rest = Rest(*answers)
    program.opener = lambda ca, client: rest
    assert program.is_leader(CONFIG["restapi"], wait) is leads
    assert rest.answers == []


def test_an_unexpected_answer_is_an_error(program: ModuleType) -> None:
    program.opener = lambda ca, client: Rest(403)
    with pytest.raises(OSError, match="403"):
        program.is_leader(CONFIG["restapi"], 0)
