# SPDX-License-Identifier: Apache-2.0
"""Where a job runs, from which member, and one at a time."""

from __future__ import annotations

import json
import multiprocessing
import os

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import collect, context, jobs, runner
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.context import Context
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.cluster import Cluster, Member
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

LEADER = Member("node2", "leader", "running")
NEAR = Member("node3", "quorum_standby", "streaming", lag=0)
FAR = Member("node1", "replica", "streaming", lag=900)
SICK = Member("node4", "replica", "start failed", lag=0)


def test_a_dump_comes_from_the_replica_that_lags_least():
    found = context.sources(Cluster((FAR, LEADER, SICK, NEAR)))
    assert [member.name for member in found] == ["node3", "node1", "node2"]
    assert context.sources(Cluster((FAR, LEADER)), "primary")[0] is LEADER


@pytest.mark.parametrize(
    ("member", "where", "does"),
    [("node2", "primary", True), ("node1", "primary", False), ("node1", "replica", True), ("node3", "replica", False)],
)
def test_one_member_does_a_job_whoever_it_is_now(member, where, does):
    assert (context.reason_to_skip(Cluster((FAR, LEADER, NEAR)), member, where) == "") is does


def test_a_lone_primary_does_the_work_of_replicas():
    assert context.reason_to_skip(Cluster((LEADER, SICK)), "node2", "replica") == ""


def test_without_any_member_that_works_nobody_is_chosen():
    with pytest.raises(Refusal, match="no member that works"):
        context.reason_to_skip(Cluster((SICK,)), "node4", "primary")


def hold(folder, ready, end):
    context.LOCKS = folder
    with context.lock("valkey", 1, "job a"):
        ready.set()
        end.wait(10)


def test_two_jobs_of_one_resource_do_not_run_together(tmp_path, monkeypatch):
    monkeypatch.setattr(context, "LOCKS", str(tmp_path))
    ready, end = multiprocessing.Event(), multiprocessing.Event()
    process = multiprocessing.Process(target=hold, args=(str(tmp_path), ready, end))
    process.start()
    assert ready.wait(10)
    with pytest.raises(Refusal, match="in use by job a"), context.lock("valkey", 0.3, "job b"):
        pass
    # The kernel lets a lock go with its holder.
    process.kill()
    process.join()
    with context.lock("valkey", 5, "job b"):
        pass


def host(tmp_path, **more):
    return Context(
        {"cluster": "lab", "backup_dir": str(tmp_path / "backup"), "state_dir": str(tmp_path / "jobs"), **more}
    )


def prune_job():
    return jobs.parse_one({"name": "prune", "kind": "prune", "calendar": "daily"})


def test_a_result_is_left_to_read(tmp_path, monkeypatch):
    monkeypatch.setattr(context, "LOCKS", str(tmp_path / "locks"))
    (tmp_path / "backup").mkdir()
    runner.run(host(tmp_path), prune_job(), {})
    assert collect.last_result(host(tmp_path), "prune")["state"] == "done"


def test_a_failure_is_left_to_read_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(context, "LOCKS", str(tmp_path / "locks"))
    (tmp_path / "backup").mkdir()
    broken = host(tmp_path, retention={"logical": {"keep": 1}})
    with pytest.raises(Refusal, match="keep is unknown"):
        runner.run(broken, prune_job(), {})
    found = collect.last_result(broken, "prune")
    assert found["state"] == "failed" and "keep is unknown" in found["message"] and not found["ok"]


def test_a_run_whose_process_is_gone_was_interrupted(tmp_path):
    state = {"state": "running", "ok": False, "pid": os.getpid(), "process_start": collect.process_start(os.getpid())}
    context.write_state(host(tmp_path), "full", state)
    assert collect.last_result(host(tmp_path), "full")["state"] == "running"
    context.write_state(host(tmp_path), "full", {**state, "process_start": "before/1"})
    assert collect.last_result(host(tmp_path), "full")["state"] == "interrupted"


def test_an_unknown_engine_is_refused():
    with pytest.raises(Refusal, match="'mysql'"):
        runner.jobs_for_now(["mysql"], "full", False, "here")


def test_a_configuration_that_cannot_be_read_says_what_to_do(tmp_path):
    path = tmp_path / "backup.json"
    with pytest.raises(Refusal, match=r"Run site\.yml"):
        context.load(str(path))
    path.write_text(json.dumps({"cluster": "lab"}))
    with pytest.raises(Refusal, match="has no pgbackrest"):
        context.load(str(path)).section("pgbackrest")
