# SPDX-License-Identifier: Apache-2.0
"""A key of a real etcd is watched."""

from __future__ import annotations

import threading
import time

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.client import Client, UnreachableError
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.keys import Entry, Keys

from .conftest import Etcd


def test_a_watch_tells_at_once_and_ends_in_silence(etcd: Etcd) -> None:
    etcd.found(["a"])
    keys, writer = (Keys(Client(etcd.connection), "/service/lab/") for _each in range(2))
    keys.put("leader", "node1")
    lease = writer.grant(60)
    with keys.watching("leader", 1.5) as changes:
        assert keys.get("leader") == Entry("node1")
        threading.Timer(0.3, writer.delete, ["leader"]).start()
        threading.Timer(0.6, writer.put, ["leader", "node2", lease]).start()
        assert next(changes, "nothing") is None
        assert next(changes, None) == Entry("node2", lease)
        begun = time.monotonic()
        assert list(changes) == []
        assert 1.4 < time.monotonic() - begun < 5


def test_a_watch_ends_with_its_server(etcd: Etcd) -> None:
    etcd.found(["a"])
    keys = Keys(Client(etcd.connection), "/service/lab/")
    with keys.watching("leader", 30) as changes:
        threading.Timer(0.3, etcd.stop, ["a"]).start()
        assert list(changes) == []
    with pytest.raises(UnreachableError), keys.watching("leader", 30):
        pass
