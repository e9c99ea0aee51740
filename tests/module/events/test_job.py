# SPDX-License-Identifier: Apache-2.0
"""The job of a backup host: archives in the catalogue, proved by drills, deleted by the rule, and brought back."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import collect, drill, jobs, runner, store
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.context import Context
from ansible_collections.holdfast.persistence.plugins.module_utils.events import drill as events_drill
from ansible_collections.holdfast.persistence.plugins.module_utils.events import job
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.cluster import Cluster, Member
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

NEW = "marten-9.58.0"
ENGINES = {"events": job.run}
# A user that every machine has, with a group of the same name: servers refuse root.
USER = "daemon" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def folder():
    """A folder that the user of a drill's server may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="holdfast-events-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def host(server, folder, monkeypatch):
    """A backup host whose cluster is one server; what a drill runs belongs to nobody in particular."""
    monkeypatch.setattr(contexts, "LOCKS", str(folder / "locks"))
    # As the role makes it: a drill's server works in a folder below.
    (folder / "backup").mkdir()
    (folder / "backup").chmod(0o711)
    leader = Member("node1", "leader", "running", host="127.0.0.1")
    monkeypatch.setattr(contexts, "look", lambda _context: Cluster((leader,)))
    monkeypatch.setattr(job.logical, "environment", lambda _context, _password="": {})
    return Context(
        {
            "cluster": "lab",
            "backup_dir": str(folder / "backup"),
            "state_dir": str(folder / "state"),
            "metrics_file": "",
            "retention": {"events": {"count": 1}},
            "limits": {"events": {"good": 3600, "proved": 3600}},
            "postgresql": {"bin_dir": str(server.database.programs.folder), "port": server.port, "user": "postgres"},
        }
    )


def parsed(**more):
    return jobs.parse_one({"name": "orders", "kind": "events", "calendar": "daily", **more})


def test_a_job_makes_an_archive_each_time_and_the_rule_keeps_the_last(server, host):
    server.make("source", f"{NEW}/tagged")
    entry = parsed(options={"database": "source"})
    (first,) = runner.run(host, entry, ENGINES).labels["events"]
    (second,) = runner.run(host, entry, ENGINES).labels["events"]
    assert first < second
    known = collect.collect(host).entries
    assert {(item.engine, item.kind, item.series, item.good) for item in known} == {
        ("events", "marten", "events/marten/source/orders", True)
    }
    prune = jobs.parse_one({"name": "prune", "kind": "prune", "calendar": "daily"})
    assert runner.run(host, prune, ENGINES).labels == {"events": [first]}
    assert store.labels(host.backup_dir, "events") == [second]
    assert [finding.rule for finding in collect.findings(host, collect.collect(host), [])] == ["backup_unproved"]


def proved(host, monkeypatch):
    """Run the drill as the user that may run servers here."""
    original = events_drill.server
    monkeypatch.setattr(events_drill, "server", lambda context, parent: original(context, parent, USER))
    entry = jobs.parse_one({"name": "drill", "kind": "drill", "calendar": "daily", "options": {"engines": ["events"]}})
    return drill.run({"events": events_drill.drill}, host, entry)


def test_a_drill_proves_every_kind_of_archive(server, host, monkeypatch):
    for shape in ("archived", "tagged", "tenants"):
        server.make("source", f"{NEW}/{shape}")
        job.make(host, {"database": "source", "archive": shape})
    moment = server.query("source", "SELECT max(timestamp)::text FROM events.mt_events")[0][0].replace(" ", "T")
    job.make(host, {"database": "source", "archive": "range", "since": moment})
    server.make("actors", "akka-sql-1.5.73/default-plain")
    job.make(host, {"kind": "akka", "database": "actors", "archive": "actors"})
    assert len(proved(host, monkeypatch).labels["events"]) == 5
    assert collect.findings(host, collect.collect(host), []) == []
    assert not list(Path(host.backup_dir).glob("drill/*"))


def test_a_drill_finds_a_stream_with_a_gap(server, host, monkeypatch):
    server.make("source", f"{NEW}/guid")
    server.run(
        "source",
        "DELETE FROM events.mt_events WHERE seq_id = (SELECT min(seq_id) FROM events.mt_events WHERE version = 2)",
    )
    job.make(host, {"database": "source", "archive": "gap"})
    with pytest.raises(Refusal, match=r"not proved: events \S+-gap: no gaps \(1 are otherwise\)"):
        proved(host, monkeypatch)


def test_whole_days_before_this_one(server, host):
    server.make("source", f"{NEW}/guid")
    server.run("source", "UPDATE events.mt_events SET timestamp = now() - interval '1 day' WHERE seq_id <= 10")
    server.run("source", "UPDATE events.mt_events SET timestamp = now() WHERE seq_id > 10")
    assert runner.run(host, parsed(options={"database": "source", "days": 1}), ENGINES).message == "10 events of source"


def test_an_archive_comes_back_by_its_name(server, host):
    server.make("source", f"{NEW}/guid")
    server.make("target", f"{NEW}/guid", rows=False)
    job.make(host, {"database": "source", "archive": "orders"})
    wish = {"database": "target", "archive": "orders"}
    assert job.bring(host, wish, check=True)["changed"]
    assert (job.bring(host, wish)["inserted"], job.bring(host, wish)["changed"]) == (86, False)
    assert server.tables("target") == server.tables("source")


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"archive": "a"}, "the database of the store is not named"),
        ({"database": "a", "archive": "A b"}, "allowed are up to 63 lower case letters"),
        ({"database": "a", "archive": "a", "kind": "kafka"}, "kind is 'kafka'; allowed are marten, akka"),
        ({"database": "a", "archive": "a", "format": "csv"}, "format is 'csv'; allowed are archive, jsonl"),
        ({"database": "a", "archive": "a", "since": "then"}, "since is 'then'"),
        ({"database": "a", "archive": "a", "kind": "akka", "mapping": "odd"}, "mapping is 'odd'"),
        ({"database": "nowhere", "archive": "a"}, "failed on every member: node1: .*does not exist"),
    ],
)
def test_what_can_not_be_exported_is_refused_in_words(host, wish, words):
    with pytest.raises(Refusal, match=words):
        job.make(host, wish)
