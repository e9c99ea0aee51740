# SPDX-License-Identifier: Apache-2.0
"""A real etcd cluster at its quota gets its room back, whatever was interrupted before."""

from __future__ import annotations

from typing import Any

import pytest
from run_module import fail_module, run_module

from .conftest import Etcd

QUOTA = 4
VALUE = "x" * 130_000


@pytest.fixture
def options(etcd: Etcd) -> dict[str, Any]:
    """Three members that refuse writes; what the module needs to reach them."""
    etcd.quota = QUOTA * 1024**2
    etcd.found(["a", "b", "c"])
    for words in (("user", "add", "root:secret"), ("user", "grant-role", "root", "root"), ("auth", "enable")):
        done = etcd.control(*words)
        assert done.returncode == 0, done.stderr
    etcd.user = "root:secret"
    for _write in range(200):
        if etcd.control("put", "key", VALUE).returncode != 0:
            break
    assert "NOSPACE" in etcd.control("alarm", "list").stdout
    asked = etcd.asked("a", "voting")
    return {
        "endpoints": list(etcd.clients.values()),
        "ca_cert": asked["ca_cert"],
        "client_cert": asked["client_cert"],
        "username": "root",
        "password": "secret",
        "quota_mebibytes": QUOTA,
    }


def test_a_full_cluster_takes_writes_again(etcd: Etcd, options: dict[str, Any]) -> None:
    assert not etcd.decides()
    told = run_module("etcd_space", options, check=True)
    assert told["changed"] and not etcd.decides()
    # What an operator does first: alone it does not last, as the next write of the size that filled the store raises it again.
    assert etcd.control("alarm", "disarm").returncode == 0
    assert etcd.control("put", "/more", VALUE).returncode != 0
    assert not etcd.decides()

    done = run_module("etcd_space", options)
    assert done["steps"][0] == "compact the history" and done["steps"][-1] == "disarm the alarm NOSPACE"
    assert max(done["sizes"].values()) < 1024**2
    assert etcd.decides() and etcd.control("alarm", "list").stdout == ""
    assert not run_module("etcd_space", options)["changed"]


def test_a_run_that_was_interrupted_is_finished(etcd: Etcd, options: dict[str, Any]) -> None:
    assert etcd.control("compact", etcd.revision()).returncode == 0
    assert etcd.control(f"--endpoints={etcd.clients['b']}", "defrag").returncode == 0
    assert run_module("etcd_space", options)["changed"]
    assert etcd.decides()


def test_keys_that_are_left_keep_the_alarm_and_are_told(etcd: Etcd, options: dict[str, Any]) -> None:
    run_module("etcd_space", options)
    for number in range(200):
        if etcd.control("put", f"/foreign/{number}", VALUE).returncode != 0:
            break
    # A quota of half the size stands for keys that take more of it; how full pages are is the store's matter.
    tight = options | {"quota_mebibytes": QUOTA // 2}
    assert "what is left are keys" in fail_module("etcd_space", tight)
    assert "NOSPACE" in etcd.control("alarm", "list").stdout
    assert etcd.control("del", "/foreign/", "--prefix").returncode == 0
    assert run_module("etcd_space", options)["changed"]
    assert etcd.decides()


def test_a_member_that_is_down_is_named(etcd: Etcd, options: dict[str, Any]) -> None:
    etcd.stop("c")
    assert "c (" in fail_module("etcd_space", options)
