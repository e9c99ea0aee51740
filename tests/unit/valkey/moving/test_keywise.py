# SPDX-License-Identifier: Apache-2.0
"""What a mover does where replicas of a server are late with the state of a slot."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Endpoint, ReplyError
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.moving import keywise

SERVER = Endpoint("192.0.2.11", 7001)
LATE = "NOREPLICAS Not enough good replicas to write"


class Server:
    """Answers each pipeline with the next of its replies, then with OK."""

    def __init__(self, *replies):
        self.replies = list(replies)
        self.asked = []

    def pipeline(self, commands):
        self.asked.append(commands)
        problem = self.replies.pop(0) if self.replies else ""
        return [ReplyError(SERVER, command, problem) if problem else "OK" for command in commands]


def owners(server):
    """Return the teller of owners over a fleet of one server, whose clock goes on by a second at each look."""
    clock = iter(range(1000))
    context = SimpleNamespace(clock=lambda: float(next(clock)), members={"a": SimpleNamespace(endpoint=SERVER)})
    return keywise._Owners(context, SimpleNamespace(client=lambda _endpoint: server))


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(keywise.time, "sleep", lambda _seconds: None)


@pytest.mark.parametrize("state", ["IMPORTING", "MIGRATING", "NODE"])
def test_late_replicas_are_awaited(state):
    server = Server(LATE, LATE)
    owners(server).set("a", [7, 8], state, "b")
    assert server.asked == [[("CLUSTER", "SETSLOT", slot, state, "b") for slot in (7, 8)]] * 3


def test_replicas_that_never_come_end_the_move():
    with pytest.raises(ReplyError, match="NOREPLICAS"):
        owners(Server(*[LATE] * 100)).set("a", [7], "NODE", "b")


def test_another_error_is_said_at_once():
    server = Server("ERR Unknown node b")
    with pytest.raises(ReplyError, match="Unknown node"):
        owners(server).set("a", [7], "NODE", "b")
    assert len(server.asked) == 1
