# SPDX-License-Identifier: Apache-2.0
"""Members join, vote in and leave a real etcd cluster on loopback."""

from __future__ import annotations

import shutil

from run_module import fail_module, run_module

from .conftest import Etcd


def test_where_no_cluster_runs_there_is_nothing_to_join(etcd: Etcd) -> None:
    for name in ("a", "b"):
        etcd.reserve(name)
    told = run_module("etcd_member", etcd.asked("a", "joined", data_dir=str(etcd.data("a")), timeout=1))
    assert (told["changed"], told["cluster_found"], told["starts_as"]) == (False, False, "")


def test_a_member_joins_votes_loses_its_data_and_leaves(etcd: Etcd) -> None:
    etcd.found(["a", "b", "c"])
    etcd.reserve("d")
    joined = etcd.asked("d", "joined", data_dir=str(etcd.data("d")))
    left = etcd.asked("d", "absent")

    told = run_module("etcd_member", joined, check=True)
    assert told["changed"]
    assert len(etcd.members()) == 3
    done = run_module("etcd_member", joined)
    assert done["steps"] == told["steps"] == [f"add d ({etcd.peers['d']}) as a learner"]
    assert etcd.members()[etcd.peers["d"]] == "true"
    again = run_module("etcd_member", joined)
    assert (again["changed"], again["starts_as"]) == (False, done["starts_as"])
    assert set(done["starts_as"].split(",")) == {f"{name}={url}" for name, url in etcd.peers.items()}

    etcd.start("d", done["starts_as"], "existing")
    assert run_module("etcd_member", etcd.asked("d", "voting"))["changed"]
    assert set(etcd.members().values()) == {"false"}
    assert not run_module("etcd_member", etcd.asked("d", "voting"))["changed"]
    assert not run_module("etcd_member", joined)["changed"]

    etcd.stop("d")
    shutil.rmtree(etcd.data("d"))
    anew = run_module("etcd_member", joined)
    assert anew["steps"] == ["remove d, which lost its data", f"add d ({etcd.peers['d']}) as a learner"]
    etcd.start("d", anew["starts_as"], "existing")
    assert run_module("etcd_member", etcd.asked("d", "voting"))["changed"]

    assert run_module("etcd_member", left, check=True)["changed"]
    assert len(etcd.members()) == 4
    assert run_module("etcd_member", left)["changed"]
    assert not run_module("etcd_member", left)["changed"]
    assert etcd.peers["d"] not in etcd.members()
    assert "does not know it" in fail_module("etcd_member", joined)


def test_what_would_break_the_quorum_is_refused(etcd: Etcd) -> None:
    etcd.found(["a", "b", "c"])
    before = etcd.members()
    assert "1 more may be lost" in fail_module("etcd_member", etcd.asked("c", "absent"))
    etcd.stop("c")
    assert "1 more may be lost" in fail_module("etcd_member", etcd.asked("b", "absent"), check=True)
    assert "they can decide" in fail_module("etcd_member", etcd.asked("b", "absent", spare=0))
    assert etcd.members() == before
    assert run_module("etcd_member", etcd.asked("c", "absent", spare=0))["changed"]
    assert etcd.decides()
