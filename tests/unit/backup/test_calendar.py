# SPDX-License-Identifier: Apache-2.0
"""Calendar expressions: what systemd takes is taken, what it refuses is refused with the part that is wrong."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import calendar
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from hypothesis import given, settings
from hypothesis import strategies as st

GOOD = [
    "daily",
    "Weekly",
    "quarterly",
    "03:30",
    "3:05:07.25",
    "Sun *-*-* 01:00",
    "Mon..Fri 22:30",
    "Sat,Sun 04:00 UTC",
    "*-*-01 02:00:00",
    "*-*~01 02:00",
    "2027-02-03",
    "*:0/15",
    "*-1,4,7,10-1 00:00",
    "Mon,Wed..Fri *-*-* 5,17:00",
    "*-*-* *:00/10:00 Europe/Berlin",
]
BAD = [
    ("", "not a calendar expression"),
    ("every day", "no place|not a day"),
    ("25:00", "hour '25' is not in 0..23"),
    ("*-13-01", "month '13'"),
    ("03:60", "minute '60'"),
    ("Funday 03:00", "not a day of the week"),
    ("*-*-* 03:00 tomorrow", "no place"),
    ("03:00 03:00", "no place"),
    ("*:0/0", "step '0'"),
    ("0 3 * * *", "no place"),
    ("*-*-*-*", "not a date"),
    ("1:2:3:4", "not a time"),
    ("5..3:00", "backwards"),
    ("03:3O", "no minute"),
    ("täglich", "not a calendar expression"),
    ("daily\n[Service]", "not a calendar expression"),
]
PARTS = st.one_of(
    st.sampled_from(["*", "1", "07", "12", "0/15", "1..5", "5..1", "99", "", "1,2", "x", "*/2", "1..5/2", "60", "2027"])
)
EXPRESSIONS = st.one_of(
    st.tuples(PARTS, PARTS, PARTS).map("-".join),
    st.tuples(PARTS, PARTS).map(":".join),
    st.tuples(PARTS, PARTS, PARTS).map(":".join),
    st.tuples(st.sampled_from(["Mon", "Mon..Fri", "Sat,Sun", "Sunny", "Tue-Thu"]), PARTS, PARTS).map(
        lambda parts: f"{parts[0]} {parts[1]}:{parts[2]}"
    ),
)


@pytest.mark.parametrize("expression", GOOD)
def test_expressions_of_the_manual_are_taken(expression):
    assert calendar.check(f"  {expression} ") == " ".join(expression.split())


@pytest.mark.parametrize(("expression", "word"), BAD)
def test_others_are_refused_with_the_part_that_is_wrong(expression, word):
    with pytest.raises(Refusal, match=word):
        calendar.check(expression)


def accepted(expression):
    try:
        calendar.check(expression)
    except Refusal:
        return False
    return True


@given(st.text(max_size=30))
def test_any_text_is_taken_or_refused(text):
    accepted(text)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here to compare with")
@settings(max_examples=60, deadline=None)
@given(EXPRESSIONS)
def test_systemd_takes_what_is_taken_and_refuses_what_is_refused(expression):
    told = subprocess.run(["systemd-analyze", "calendar", "--", expression], capture_output=True, check=False)
    assert accepted(expression) == (told.returncode == 0), told.stderr.decode()
