# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Findings: what a check saw that is not as it should be, and what to do about it. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

SEVERITIES = ("info", "warning", "critical")
FAIL_ON = ("none", "warning", "critical")


@dataclass(frozen=True)
class Finding:
    """One broken rule.

    rule: the rule's name, lower case with underscores, stable between releases.
    severity: one of SEVERITIES.
    where: host, node, slot range or database that the finding is about.
    found: what was read there, with its unit.
    allowed: what the rule allows, with its unit.
    remedy: what a person does about it, as one sentence.
    """

    rule: str
    severity: str
    where: str
    found: str
    allowed: str
    remedy: str

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity {self.severity!r} is none of {', '.join(SEVERITIES)}")

    def __str__(self) -> str:
        return f"{self.severity}: {self.rule}: {self.where}: {self.found} (allowed: {self.allowed}). {self.remedy}"


def worst(findings: Iterable[Finding]) -> str | None:
    """Return the highest severity among the findings, None if there are none."""
    ranks = [SEVERITIES.index(finding.severity) for finding in findings]
    return SEVERITIES[max(ranks)] if ranks else None


def at_least(findings: Iterable[Finding], severity: str) -> list[Finding]:
    """Return the findings at or above a severity, in their order.

    severity: one of SEVERITIES, or `none`, which no finding reaches (the option `fail_on` of the check modules).
    """
    if severity == "none":
        return []
    floor = SEVERITIES.index(severity)
    return [finding for finding in findings if SEVERITIES.index(finding.severity) >= floor]


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings ordered from worst to mildest; equal ones keep their order."""
    return sorted(findings, key=lambda finding: -SEVERITIES.index(finding.severity))


def to_dict(finding: Finding) -> dict[str, str]:
    """Return the finding as a dict with the keys rule, severity, where, found, allowed and remedy."""
    return asdict(finding)
