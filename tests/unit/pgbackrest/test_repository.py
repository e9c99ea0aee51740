# SPDX-License-Identifier: Apache-2.0
"""What is read out of pgBackRest's answer, and when a replica may be made of a backup."""

from __future__ import annotations

import json

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest import repository
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from hypothesis import given
from hypothesis import strategies as st

from .answers import SYSTEM, answer, backup


@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_a_position_survives_writing_and_reading(position):
    assert repository.parse_lsn(repository.format_lsn(position)) == position


@pytest.mark.parametrize("text", ["", "0", "0/", "/0", "x/1", "0/123456789", "-1/0", "0/ 1", "+1/0"])
def test_what_is_no_position_is_refused(text):
    with pytest.raises(ValueError, match="not an LSN"):
        repository.parse_lsn(text)


def test_an_answer_is_read():
    stanza = repository.parse(answer([backup("20260101-000000F", stop=100)]), "lab")
    assert [(item.label, item.kind, item.stop, item.stop_timeline) for item in stanza.backups] == [
        ("20260101-000000F", "full", 100, 1)
    ]
    assert stanza.backups[0].system_identifier == SYSTEM
    assert (stanza.missing, stanza.broken) == ([], {})
    assert stanza.archives[0].last == "00000001000000000000000F"


def test_a_repository_without_the_stanza_is_missing_and_one_with_another_passphrase_is_broken():
    found = json.loads(answer([]))
    found[0]["repo"] = [
        {"key": 1, "status": {"code": 1, "message": "missing stanza path"}},
        {"key": 2, "status": {"code": 99, "message": "other"}},
        {"key": 3, "status": {"code": 2, "message": "no valid backups"}},
    ]
    stanza = repository.parse(json.dumps(found), "lab")
    assert (stanza.missing, stanza.broken) == ([1], {2: "other"})


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1]", '[{"name": "lab", "repo": [{}]}]'])
def test_what_is_no_answer_is_refused(text):
    with pytest.raises(Refusal):
        repository.parse(text, "lab")


def test_a_faulty_backup_is_never_the_newest():
    stanza = repository.parse(answer([backup("A", stop=1), backup("B", stop=2, error=True)]), "lab")
    assert repository.newest(stanza.backups).label == "A"


@pytest.mark.parametrize(
    ("backups", "system", "timeline", "reason"),
    [
        ([], SYSTEM, 1, "no backup"),
        ([backup("A", stop=1)], SYSTEM, 1, ""),
        ([backup("A", stop=1)], SYSTEM, 2, "timeline 1, the primary is on 2"),
        ([backup("A", stop=1)], SYSTEM + 1, 1, "of the cluster"),
        ([backup("A", stop=1), backup("B", stop=2, timeline=2)], SYSTEM, 2, ""),
    ],
)
def test_only_a_backup_of_the_primarys_own_timeline_makes_a_replica(backups, system, timeline, reason):
    found = repository.reason_against_copy(repository.parse(answer(backups), "lab"), system, timeline)
    assert reason in found if reason else found == ""
