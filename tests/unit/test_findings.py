# SPDX-License-Identifier: Apache-2.0
"""Findings and their severities."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.findings import (
    Finding,
    at_least,
    by_severity,
    to_dict,
    worst,
)


def finding(severity: str) -> Finding:
    return Finding("rule", severity, "node1", "7 bytes", "at most 5 bytes", "Wait.")


def test_severities() -> None:
    mild, bad, worse = finding("info"), finding("warning"), finding("critical")
    assert worst([]) is None
    assert worst([mild, worse, bad]) == "critical"
    assert at_least([mild, worse, bad], "warning") == [worse, bad]
    assert at_least([mild, worse, bad], "none") == []
    assert by_severity([mild, worse, bad]) == [worse, bad, mild]
    with pytest.raises(ValueError, match="severity 'bad' is none of"):
        finding("bad")


def test_as_data_and_as_text() -> None:
    assert to_dict(finding("info")) == {
        "rule": "rule", "severity": "info", "where": "node1", "found": "7 bytes", "allowed": "at most 5 bytes",
        "remedy": "Wait.",
    }  # fmt: skip
    assert str(finding("critical")) == "critical: rule: node1: 7 bytes (allowed: at most 5 bytes). Wait."
