# SPDX-License-Identifier: Apache-2.0
"""Keys and leases as etcd's gateway writes them."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.client import EtcdError
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.keys import Entry, Keys


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Gateway:
    """Answers by path, and remembers what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers
        self.asked: list[tuple[str, dict]] = []

    @contextlib.contextmanager
    def stream(self, path: str, body: dict, idle: float) -> Iterator[Iterator[dict]]:
        self.asked.append((path, body))
        yield iter(self._answers["watch"])

    def ask(self, path: str, body: dict) -> dict:
        self.asked.append((path, body))
        answer = self._answers[path.rsplit("/", 1)[1]]
        if isinstance(answer, Exception):
            raise answer
        return answer


def keys(gateway: Gateway) -> Keys:
    return Keys(gateway, "/service/lab/")  # type: ignore[arg-type]


def test_a_key_is_read_with_the_lease_it_hangs_on() -> None:
    gateway = Gateway(range={"kvs": [{"key": coded("/service/lab/leader"), "value": coded("node1"), "lease": "77"}]})
    assert keys(gateway).get("leader") == Entry("node1", "77")
    assert gateway.asked == [("/v3/kv/range", {"key": coded("/service/lab/leader")})]


def test_a_missing_key_is_none_and_an_empty_prefix_is_empty() -> None:
    assert keys(Gateway(range={"header": {}})).get("leader") is None
    assert keys(Gateway(range={})).list("members/") == {}


def test_a_prefix_is_listed_by_what_follows_it() -> None:
    gateway = Gateway(
        range={"kvs": [{"key": coded("/service/lab/guard/sick/node1"), "value": coded("full"), "lease": "0"}]}
    )
    assert keys(gateway).list("guard/sick/") == {"node1": Entry("full")}
    assert gateway.asked[0][1]["range_end"] == coded("/service/lab/guard/sick0")


@pytest.mark.parametrize("there", [True, False])
def test_a_key_is_created_only_where_it_is_not(there: bool) -> None:
    gateway = Gateway(txn={} if there else {"succeeded": True})
    assert keys(gateway).create("guard/out", "node1", "77") is not there
    body = gateway.asked[0][1]
    assert body["compare"][0]["create_revision"] == "0"
    assert body["success"][0]["request_put"]["lease"] == "77"


def test_a_lease_that_has_ended_is_told() -> None:
    assert keys(Gateway(keepalive={"result": {"ID": "77", "TTL": "60"}})).renew("77")
    assert not keys(Gateway(keepalive={"result": {"ID": "77"}})).renew("77")


def test_revoking_what_has_ended_is_no_error_but_anything_else_is() -> None:
    keys(Gateway(revoke=EtcdError("e", "etcdserver: requested lease not found"))).revoke("77")
    with pytest.raises(EtcdError):
        keys(Gateway(revoke=EtcdError("e", "etcdserver: leader changed"))).revoke("77")


def test_a_watch_gives_what_is_written_from_now_on() -> None:
    leader = {"key": coded("/service/lab/leader"), "value": coded("node2"), "lease": "78"}
    gone, taken = {"type": "DELETE", "kv": {"key": leader["key"]}}, {"kv": leader}
    gateway = Gateway(watch=[{"created": True}, {"events": [gone]}, {"events": []}, {"events": [taken, taken]}])
    with keys(gateway).watching("leader", 1) as changes:
        assert list(changes) == [None, Entry("node2", "78"), Entry("node2", "78")]
    assert gateway.asked == [("/v3/watch", {"create_request": {"key": leader["key"]}})]


@pytest.mark.parametrize("answers", [[], [{"canceled": True}]])
def test_a_watch_that_does_not_stand_is_an_error(answers: list[dict]) -> None:
    with pytest.raises(EtcdError, match="does not watch"), keys(Gateway(watch=answers)).watching("leader", 1):
        pass
