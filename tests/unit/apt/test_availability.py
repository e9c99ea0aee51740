# SPDX-License-Identifier: Apache-2.0
"""Which packages apt can install, out of the words of dpkg and apt."""

from __future__ import annotations

from ansible_collections.holdfast.persistence.plugins.module_utils.apt.availability import (
    Unavailable,
    as_results,
    complaint,
    conflicts,
    judge,
    missing,
    without_candidate,
)
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.lists(st.from_regex(r"[a-z][a-z0-9+.-]{1,12}", fullmatch=True), max_size=6)

# Debian testing on 2026-11-30: apt 3.1, no rclone; of a package that only others name apt knows no version.
POLICY = """zstd:
  Installed: (none)
  Candidate: 1.5.7+dfsg-3
  Version table:
     1.5.7+dfsg-3 500
        100 /var/lib/dpkg/status
keepalived:amd64:
  Installed: (none)
  Candidate: (none)
  Version table:
"""
UNMET = """Reading package lists...
Some packages could not be installed.
The following packages have unmet dependencies:
 patroni : Depends: python3 (< 3.14) but 3.14.2 is to be installed
           Recommends: iproute2 but it is not installable
E: Unable to correct problems, you have held broken packages.
"""


def test_missing_is_what_is_not_installed() -> None:
    status = "zstd installed\nrclone config-files\nlibpq5 not-installed\n"
    assert missing(["zstd", "rclone", "libpq5", "chrony", "rclone"], status) == ["rclone", "libpq5", "chrony"]


def test_a_package_without_a_version_and_one_that_nobody_knows_have_no_candidate() -> None:
    assert without_candidate(["zstd", "keepalived", "rclone"], POLICY) == ["keepalived", "rclone"]


@given(NAMES, NAMES)
def test_what_has_a_version_is_never_refused_and_everything_else_always(known: list[str], unknown: list[str]) -> None:
    policy = "".join(f"{name}:\n  Installed: (none)\n  Candidate: 1.0-1\n" for name in known)
    assert without_candidate([*known, *unknown], policy) == [name for name in unknown if name not in known]


def test_why_apt_refuses_an_installation() -> None:
    assert conflicts(UNMET) == (
        "patroni : Depends: python3 (< 3.14) but 3.14.2 is to be installed; Recommends: iproute2 but it is not installable"
    )
    assert conflicts("E: Sub-process dpkg is gone\n") == "Sub-process dpkg is gone"
    assert conflicts("") == "apt-get says no more"


def test_a_complaint_is_an_error_before_a_warning() -> None:
    text = "W: Failed to fetch http://192.0.2.1/x  Could not connect\nE: The repository is not signed.\n"
    assert complaint(text) == "The repository is not signed."
    assert complaint("Hit:1 http://192.0.2.1\n") == ""


def test_nothing_is_said_of_lists_that_did_not_come_where_all_packages_are_known() -> None:
    assert judge([], "Could not connect", "") == []
    assert judge(["rclone"], "Could not connect", "") == [Unavailable("rclone", "Could not connect")]
    assert as_results(judge([], "", "a : Depends: b")) == [{"package": "", "reason": "a : Depends: b"}]
