"""Keys and leases as etcd's gateway writes them."""

from __future__ import annotations

import base64
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
