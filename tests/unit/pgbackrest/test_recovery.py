# SPDX-License-Identifier: Apache-2.0
"""Targets, what is possible, and the backup a restore begins with."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest import recovery, repository
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from hypothesis import given
from hypothesis import strategies as st

from .answers import SYSTEM, answer, backup

NOW = 1_800_000_000
DAY = 86_400


def stanza(*backups, last="0000000100000000000000FF"):
    return repository.parse(answer(list(backups), last), "lab")


def plan(found, kind, value="", *, timeline=1, history=None, label=""):
    return recovery.plan(
        found,
        recovery.parse_target(kind, value),
        system_identifier=SYSTEM,
        timeline=timeline,
        history=history or {},
        now=NOW,
        label=label,
    )


def at(seconds):
    return recovery._stamp(seconds)


@pytest.mark.parametrize(
    ("kind", "value", "word"),
    [
        ("latest", "x", "does not go with"),
        ("time", "", "needs restore_target"),
        ("time", "yesterday", "is not a time"),
        ("time", "2026-01-31 12:00:00", "no offset from UTC"),
        ("lsn", "12", "not an LSN"),
        ("xid", "2", "not a transaction number"),
        ("xid", "-5", "not a transaction number"),
        ("xid", "4294967296", "not a transaction number"),
        ("xid", "٣٤٥", "not a transaction number"),
        ("name", "x" * 64, "not a restore point"),
        ("backup", "latest", "not a label"),
        ("moon", "1", "allowed are"),
    ],
)
def test_what_is_no_target_is_refused(kind, value, word):
    with pytest.raises(Refusal, match=word):
        recovery.parse_target(kind, value)


@pytest.mark.parametrize("text", ["2026-01-31T13:00:00+01:00", "2026-01-31 12:00:00Z", "2026-01-31 12:00:00.000000+00"])
def test_a_time_is_given_to_postgresql_in_utc(text):
    assert recovery.parse_target("time", text).value == "2026-01-31 12:00:00.000000+00"


def test_the_newest_backup_before_a_time_is_taken():
    found = stanza(backup("A", stop=NOW - 3 * DAY), backup("B", stop=NOW - 2 * DAY), backup("C", stop=NOW - DAY))
    assert plan(found, "time", at(NOW - DAY - 1)).backup.label == "B"
    assert plan(found, "latest").backup.label == "C"
    assert plan(found, "time", at(NOW - DAY - 1), label="A").backup.label == "A"


def test_a_time_in_the_future_or_before_the_oldest_backup_is_refused_with_the_range():
    found = stanza(backup("A", stop=NOW - DAY))
    with pytest.raises(Refusal, match=r"in the future. Possible is any time from .* \(the end of A\)"):
        plan(found, "time", at(NOW + 1))
    with pytest.raises(Refusal, match="no backup lies before time"):
        plan(found, "time", at(NOW - 2 * DAY))


def test_a_position_is_judged_by_backup_and_archive():
    found = stanza(backup("A", stop=10, lsn=0x3000000), backup("B", stop=20, lsn=0x5000000))
    assert plan(found, "lsn", "0/4000000").backup.label == "A"
    with pytest.raises(Refusal, match="no backup lies before lsn 0/2000000"):
        plan(found, "lsn", "0/2000000")
    with pytest.raises(Refusal, match=r"not in the archive, which ends before 1/0"):
        plan(found, "lsn", "1/0")
    assert plan(found, "lsn", "0/FFFFFFFF").backup.label == "B"


def test_a_backup_on_a_branch_that_was_left_is_never_taken():
    left = backup("LEFT", stop=30, lsn=0x9000000)
    found = stanza(backup("A", stop=10, lsn=0x3000000), left, last="0000000200000000000000FF")
    history = {1: 0x5000000}
    assert plan(found, "latest", timeline=2, history=history).backup.label == "A"
    assert plan(found, "latest", timeline=1).backup.label == "LEFT"


def test_a_backup_by_label_brings_its_own_timeline():
    found = stanza(backup("20260101-000000F", stop=30, timeline=2), backup("20260102-000000F", stop=40, timeline=3))
    chosen = plan(found, "backup", "20260101-000000F", timeline=3)
    assert (chosen.timeline, chosen.backup.stop) == (2, 30)
    assert "--type=immediate" in chosen.arguments(False)
    with pytest.raises(Refusal, match="there is no backup"):
        plan(found, "backup", "20260103-000000F")


def test_options_of_pgbackrest():
    found = stanza(backup("A", stop=10))
    assert plan(found, "xid", "700").arguments(True) == [
        "--repo=1",
        "--set=A",
        "--type=xid",
        "--target=700",
        "--target-action=promote",
        "--target-timeline=1",
        "--target-exclusive",
    ]
    assert "--target-exclusive" not in plan(found, "name", "before").arguments(True)
    assert "--type=default" in plan(found, "latest").arguments(False)


def test_without_any_backup_it_says_so():
    with pytest.raises(Refusal, match="Nothing can be restored"):
        plan(stanza(), "latest")


def test_a_history_file_is_read():
    text = "1\t0/5000000\tno recovery target specified\n\n2\t0/7000100\tbefore 2026-01-01\n"
    assert recovery.parse_history(text) == {1: 0x5000000, 2: 0x7000100}


@given(
    stops=st.lists(st.integers(min_value=0, max_value=NOW), min_size=1, max_size=8),
    moment=st.integers(min_value=1, max_value=NOW),
)
def test_the_chosen_backup_is_before_the_target_and_none_is_nearer(stops, moment):
    found = stanza(*(backup(f"B{index}", stop=stop) for index, stop in enumerate(stops)))
    if min(stops) > moment:
        with pytest.raises(Refusal):
            plan(found, "time", at(moment))
    else:
        assert plan(found, "time", at(moment)).backup.stop == max(stop for stop in stops if stop <= moment)
