# SPDX-License-Identifier: Apache-2.0
"""One list over engines, repositories and proofs, and what is said of it."""

from __future__ import annotations

import json

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import catalogue, manifest, proofs
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest import repository

NOW = 1_800_000_000.0
DAY = 86_400.0
STANZA = json.dumps(
    [
        {
            "name": "lab",
            "archive": [],
            "backup": [
                {
                    "label": label,
                    "type": kind,
                    "error": faulty,
                    "prior": prior,
                    "archive": {"start": "000000020000000000000004", "stop": "000000020000000000000004"},
                    "database": {"id": 1, "repo-key": 1},
                    "info": {"size": 1000, "repository": {"delta": 100}},
                    "lsn": {"start": "0/4000028", "stop": "0/4000100"},
                    "timestamp": {"start": int(NOW - age * DAY) - 10, "stop": int(NOW - age * DAY)},
                }
                for label, kind, prior, faulty, age in [
                    ("20270110-000000F", "full", None, False, 3),
                    ("20270110-000000F_20270111-000000D", "diff", "20270110-000000F", False, 2),
                    ("20270112-000000F", "full", None, True, 1),
                ]
            ],
            "db": [{"id": 1, "repo-key": 1, "system-id": 7450000000000000001, "version": "17"}],
            "repo": [{"cipher": "none", "key": 1, "status": {"code": 0, "message": "ok"}}],
        }
    ]
)
DUMP = manifest.Manifest(
    engine="logical",
    kind="full",
    cluster="lab",
    label="20270114T000000Z",
    start="2027-01-14T00:00:00Z",
    end="2027-01-14T00:01:00Z",
    files=(manifest.File("a", 7, "0" * 64),),
    extras={"database": "orders"},
)


def entries(*found):
    listed = catalogue.from_stanza(repository.parse(STANZA, "lab"), {1: "main"}, {1: "/var/lib/pgbackrest"}, {1: 30})
    listed.append(catalogue.from_manifest(DUMP, "local", "/backup/logical/20270114T000000Z", sha256="f" * 64))
    return catalogue.with_proofs(listed, found)


def proof(label, verdict="proved", engine="postgresql", moment="2027-01-14T12:00:00Z", repo=""):
    return proofs.Proof(engine, label, "weekly", moment, verdict, repository=repo)


def rules(limits, *found):
    return {finding.rule for finding in catalogue.judge(entries(*found), limits, NOW)}


def test_all_engines_are_in_one_list_the_newest_first():
    assert [(entry.engine, entry.kind, entry.good) for entry in entries()] == [
        ("postgresql", "full", False),
        ("logical", "full", True),
        ("postgresql", "diff", True),
        ("postgresql", "full", True),
    ]


def test_a_differential_backup_expires_with_its_full_one():
    *_others, diff, full = entries()
    assert full.expiry == diff.expiry == full.end + 30 * DAY
    assert diff.needs == (full.label,)


def test_a_backup_that_no_drill_restored_is_unproved():
    limits = {"postgresql": catalogue.Limits(good=3 * DAY, proved=7 * DAY)}
    assert rules(limits) == {"backup_unproved", "backup_broken"}
    assert rules(limits, proof("20270110-000000F")) == {"backup_broken"}


def test_a_proof_of_another_repository_proves_nothing_here():
    assert all(entry.proved is None for entry in entries(proof("20270110-000000F", repo="offsite")))


def test_a_failed_drill_is_told_until_a_newer_backup_is_proved():
    limits = {"postgresql": catalogue.Limits(proved=7 * DAY)}
    failed = proof("20270110-000000F", "failed")
    assert "backup_drill_failed" in rules(limits, failed)
    assert "backup_drill_failed" not in rules(limits, failed, proof("20270110-000000F_20270111-000000D"))


def test_the_last_verdict_counts():
    older = proof("20270110-000000F", "failed", moment="2027-01-13T00:00:00Z")
    assert [entry.proved for entry in entries(older, proof("20270110-000000F")) if entry.drill] != [None]


def test_a_backup_too_old_or_missing_is_told():
    limits = {"postgresql": catalogue.Limits(good=DAY), "valkey": catalogue.Limits(good=DAY)}
    found = catalogue.judge(entries(), limits, NOW)
    assert [finding.where for finding in found if finding.rule == "backup_overdue"] == ["postgresql", "valkey"]
    assert {finding.found for finding in found if finding.where == "valkey"} == {"no good backup"}


def test_metrics_are_text_that_prometheus_reads():
    text = catalogue.metrics(
        entries(proof("20270110-000000F")), ["logical", "postgresql", "valkey"], NOW, {'ma"in': True}, []
    )
    assert 'holdfast_backup_last_good_age_seconds{engine="postgresql"} 172800' in text
    assert 'holdfast_backup_last_proved_age_seconds{engine="postgresql"}' in text
    assert 'last_good_age_seconds{engine="valkey"}' not in text
    assert 'holdfast_backup_repository_up{repository="ma\\"in"} 1' in text
    assert all(line.startswith("#") or len(line.rsplit(" ", 1)) == 2 for line in text.splitlines())


def test_an_entry_is_plain_data():
    assert json.loads(json.dumps(catalogue.to_dict(entries()[1])))["end"] == "2027-01-14T00:01:00.000Z"
