# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Which of the packages that a host needs apt could install, out of what dpkg and apt say. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_NONE = "(none)"
_INSTALLED = "installed"
# Lines of apt-get that say what went wrong (apt-get(8) has no format for programs).
_COMPLAINTS = ("E: ", "W: ", "Err:")
_UNMET = "The following packages have unmet dependencies:"


@dataclass(frozen=True)
class Unavailable:
    """A package that apt can't install. reason: empty where no source of the host has it, else apt's words."""

    package: str
    reason: str = ""


def missing(wanted: Sequence[str], status: str) -> list[str]:
    """Return the wanted packages that are not installed, in their order.

    Parameters: status, lines `PACKAGE STATUS` of `dpkg-query --show --showformat '${Package} ${db:Status-Status}\\n'`.
    """
    pairs = (line.split() for line in status.splitlines())
    installed = {words[0] for words in pairs if len(words) == 2 and words[1] == _INSTALLED}
    return [name for name in dict.fromkeys(wanted) if name not in installed]


def without_candidate(wanted: Iterable[str], policy: str) -> list[str]:
    """Return the packages for which `apt-cache policy` names no version to install; of a package nobody knows it says nothing."""
    candidates: dict[str, str] = {}
    name = ""
    for line in policy.splitlines():
        words = line.split()
        if not line.startswith(" ") and line.endswith(":"):
            name = line[:-1].partition(":")[0]
        elif words[:1] == ["Candidate:"] and len(words) > 1:
            candidates.setdefault(name, words[1])
    return [name for name in wanted if candidates.get(name, _NONE) == _NONE]


def conflicts(output: str) -> str:
    """Return in one line why `apt-get --simulate install` refused."""
    lines = output.splitlines()
    if _UNMET in lines:
        after = lines[lines.index(_UNMET) + 1 :]
        told = [" ".join(line.split()) for line in after if line.startswith(" ")]
        if told:
            return "; ".join(told)
    return complaint(output) or "apt-get says no more"


def complaint(output: str) -> str:
    """Return the first line in which apt-get complains, without its mark; nothing where it does not."""
    for mark in _COMPLAINTS:
        for line in output.splitlines():
            if line.startswith(mark):
                return " ".join(line.removeprefix(mark).split())
    return ""


def judge(lacking: Sequence[str], updated: str, refused: str) -> list[Unavailable]:
    """Return what can't be installed.

    Parameters: lacking, packages without a candidate; updated, what `apt-get update` complained of; refused, why the simulated
    installation of all that have one was refused. Both are empty where nothing was wrong.
    """
    if lacking:
        return [Unavailable(name, updated) for name in lacking]
    return [Unavailable("", refused)] if refused else []


def as_results(found: Iterable[Unavailable]) -> list[Mapping[str, str]]:
    """Return plain data for a task's result."""
    return [{"package": item.package, "reason": item.reason} for item in found]
