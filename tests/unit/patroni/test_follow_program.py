# SPDX-License-Identifier: Apache-2.0
"""The program that lets a replica stream from a new leader, with etcd and PostgreSQL played."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.client import EtcdError
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.keys import Entry

MEMBERS = {f"members/node{n}": json.dumps({"conn_url": f"postgres://[fd00::1{n}]:5433/postgres"}) for n in (1, 2, 3)}


class Store:
    """Keys that are read once, and a watch that gives what is written then."""

    def __init__(self, leader: str, written: list[str]) -> None:
        self._leader, self._written = leader, written

    def get(self, name: str) -> Entry | None:
        held = {"leader": self._leader, **MEMBERS}.get(name)
        return Entry(held) if held else None

    @contextlib.contextmanager
    def watching(self, name: str, idle: float) -> Iterator[Iterator[Entry | None]]:
        assert name == "leader"
        yield (Entry(leader) if leader else None for leader in self._written)


@pytest.fixture(name="program")
def _program(monkeypatch: pytest.MonkeyPatch, load: Callable[[str], ModuleType]) -> ModuleType:
    """The program; psycopg stands for psycopg2, which has the same calls."""
    monkeypatch.setitem(sys.modules, "psycopg2", psycopg)
    return load("patroni_follow")


@pytest.fixture(name="followed")
def _followed(program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return whom the server is pointed to by watches, one after the other, each a leader at first and what is written then."""

    def run(*watches: tuple[str, list[str]], **config: Any) -> list[tuple[str, int]]:
        (tmp_path / "config.yml").write_text(json.dumps({"name": "node3", **config}))
        told: list[tuple[str, int]] = []
        monkeypatch.setattr(program.beside, "CONFIG", tmp_path / "config.yml")
        monkeypatch.setattr(program, "stream_from", lambda _server, host, port: told.append((host, port)))
        follower = program.Follower({})
        for leader, written in watches:
            monkeypatch.setattr(follower, "_keys", None)
            store = Store(leader, written)
            monkeypatch.setattr(program.beside, "keys_of", lambda *_words, store=store: store)
            follower.watch()
        return told

    return run


def test_a_new_leader_is_followed_at_once(followed: Any) -> None:
    assert followed(("node1", ["", "node2"])) == [("fd00::12", 5433)]


def test_the_leader_that_is_there_is_patronis_matter(followed: Any) -> None:
    assert followed(("node1", ["node1", "", "node1"])) == []
    assert followed(("", ["node1"])) == []


def test_a_leader_that_came_between_two_watches_is_followed(followed: Any) -> None:
    assert followed(("node1", []), ("node2", [])) == [("fd00::12", 5433)]


def test_nobody_follows_himself_or_where_another_source_is_declared(followed: Any) -> None:
    assert followed(("node1", ["", "node3"])) == []
    assert followed(("node1", ["node2"]), tags={"replicatefrom": "node1"}) == []
    assert followed(("node1", ["node2"]), tags={"replicatefrom": ""}) == [("fd00::12", 5433)]


def test_after_an_error_certificates_and_passwords_are_read_anew(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.yml").write_text(json.dumps({"name": "node3"}))
    monkeypatch.setattr(program.beside, "CONFIG", tmp_path / "config.yml")
    stores: list[Store] = []

    def fail(_name: str) -> None:
        raise EtcdError("etcd", "no")

    def keys_of(*_words: object) -> Store:
        stores.append(Store("node1", []))
        if len(stores) == 1:
            monkeypatch.setattr(stores[0], "get", fail)
        return stores[-1]

    monkeypatch.setattr(program.beside, "keys_of", keys_of)
    follower = program.Follower({})
    with pytest.raises(EtcdError):
        follower.watch()
    follower.watch()
    follower.watch()
    assert len(stores) == 2


def test_files_of_a_replica_are_replaced_only_where_they_name_another_primary(
    program: ModuleType, tmp_path: Path
) -> None:
    conf, passfile = tmp_path / "postgresql.conf", tmp_path / "pgpass"
    conf.write_text(f"primary_conninfo = 'user=r passfile={passfile} host=192.0.2.1 port=5432'\n")
    passfile.write_text("192.0.2.1:5432:*:r:secret\n")
    assert program.rewrite(str(conf), "192.0.2.2", 5432)
    assert "host=192.0.2.2 port=5432" in conf.read_text()
    assert passfile.read_text() == "192.0.2.2:5432:*:r:secret\n"
    assert passfile.stat().st_mode & 0o777 == 0o600
    assert not program.rewrite(str(conf), "192.0.2.2", 5432)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pgpass", "postgresql.conf"]


def test_what_goes_wrong_again_and_again_is_told_once(program: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise OSError("no route")

    said = ""
    for _each in range(3):
        said = program.beside.attempted(fail, (OSError,), "not watched", said)
    assert capsys.readouterr().err == "not watched: no route\n"
    assert program.beside.attempted(lambda: None, (OSError,), "not watched", said) == ""
