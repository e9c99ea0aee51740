# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Proofs: what a drill found out about one backup. No I/O.

A proof lies in `<backup_dir>/proofs/<engine>/<label>.json`. pgBackRest's backups have the engine `postgresql` and pgBackRest's label.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from ansible_collections.holdfast.persistence.plugins.module_utils.backup.manifest import seconds
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

FORMAT = 1
FOLDER = "proofs"
VERDICTS = ("proved", "failed")


@dataclass(frozen=True)
class Check:
    """One thing that a drill looked at."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True)
class Proof:
    """The verdict of a drill over one backup.

    proved: when, ISO 8601 in UTC. rto_seconds: how long until the restored engine served. rpo_seconds: how much of the newest
    history was not in it, None where that was not measured.
    """

    engine: str
    label: str
    drill: str
    proved: str
    verdict: str
    repository: str = ""
    rto_seconds: float | None = None
    rpo_seconds: float | None = None
    checks: tuple[Check, ...] = field(default_factory=tuple)

    @property
    def ok(self) -> bool:
        """Whether the backup is proved."""
        return self.verdict == "proved"


def dump(proof: Proof) -> str:
    """Return the text of a proof. Raises Refusal where parse would."""
    text = json.dumps({"format": FORMAT, **asdict(proof)}, indent=1) + "\n"
    parse(text)
    return text


def parse(text: str) -> Proof:
    """Return the proof in a text. Raises Refusal."""
    try:
        content = json.loads(text)
        if content.pop("format", None) != FORMAT:
            raise Refusal(f"its format is none this program knows ({FORMAT})")
        checks = tuple(Check(**check) for check in content.pop("checks", []))
        proof = Proof(**content, checks=checks)
        seconds(proof.proved)
    except (ValueError, TypeError, AttributeError, Refusal) as error:
        raise Refusal(f"it can't be understood: {error}") from error
    if proof.verdict not in VERDICTS:
        raise Refusal(f"verdict {proof.verdict!r} is none of {', '.join(VERDICTS)}")
    if proof.ok and not all(check.ok for check in proof.checks):
        raise Refusal("it says proved although a check failed")
    return proof


def newest(found: Iterable[Proof]) -> dict[tuple[str, str], Proof]:
    """Return the newest proof of each backup, by engine and label."""
    result: dict[tuple[str, str], Proof] = {}
    for proof in sorted(found, key=lambda item: seconds(item.proved)):
        result[proof.engine, proof.label] = proof
    return result
