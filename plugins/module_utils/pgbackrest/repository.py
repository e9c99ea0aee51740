# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The answer of `pgbackrest info --output=json` as data. No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

# Status codes of a repository in which the stanza isn't yet: no folder, no archive.info, no backup.info.
_MISSING = frozenset({1, 3})
_NO_BACKUP = 2


@dataclass(frozen=True)
class Backup:
    """One backup in one repository.

    start and stop are in seconds since 1970, start_lsn and stop_lsn in bytes; the timelines are those of the WAL it begins
    and ends in; size is that of the database in bytes, stored what the repository took for it; annotations are what whoever made it said.
    """

    label: str
    kind: str
    repository: int
    start: int
    stop: int
    start_lsn: int
    stop_lsn: int
    start_timeline: int
    stop_timeline: int
    system_identifier: int
    size: int
    stored: int
    faulty: bool
    prior: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Archive:
    """WAL that one repository holds of one cluster: names of the first and last segment, empty where there is none."""

    repository: int
    system_identifier: int
    first: str
    last: str


@dataclass(frozen=True)
class Stanza:
    """What all repositories hold of a stanza. statuses maps the number of each repository to pgBackRest's code."""

    name: str
    statuses: dict[int, tuple[int, str]]
    versions: tuple[str, ...]
    backups: tuple[Backup, ...]
    archives: tuple[Archive, ...]

    @property
    def missing(self) -> list[int]:
        """Numbers of the repositories that don't know the stanza."""
        return sorted(number for number, (code, _text) in self.statuses.items() if code in _MISSING)

    @property
    def broken(self) -> dict[int, str]:
        """Repositories that can't be used, with pgBackRest's word for it."""
        usable = {0, _NO_BACKUP} | _MISSING
        return {number: text for number, (code, text) in self.statuses.items() if code not in usable}


def parse(text: str, name: str) -> Stanza:
    """Return what `pgbackrest --stanza=name info --output=json` printed. Raises Refusal."""
    try:
        stanzas = [entry for entry in json.loads(text) if entry["name"] == name]
        if len(stanzas) != 1:
            raise Refusal(f"pgBackRest reported {len(stanzas)} stanzas {name}, expected is one")
        entry = stanzas[0]
        identities = {(item["repo-key"], item["id"]): int(item["system-id"]) for item in entry.get("db", [])}
        return Stanza(
            name=name,
            statuses={
                item["key"]: (item["status"]["code"], item["status"]["message"]) for item in entry.get("repo", [])
            },
            versions=tuple(item["version"] for item in entry.get("db", [])),
            backups=tuple(_backup(item, identities) for item in entry.get("backup", [])),
            archives=tuple(
                Archive(
                    repository=item["database"]["repo-key"],
                    system_identifier=identities.get((item["database"]["repo-key"], item["database"]["id"]), 0),
                    first=item.get("min") or "",
                    last=item.get("max") or "",
                )
                for item in entry.get("archive", [])
            ),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Refusal(
            f"pgBackRest's answer can't be understood ({type(error).__name__}: {error}): {text[:200]!r}"
        ) from error


def _backup(item: dict, identities: dict[tuple[int, int], int]) -> Backup:
    repository = item["database"]["repo-key"]
    lsn = item.get("lsn") or {}
    return Backup(
        label=item["label"],
        kind=item["type"],
        repository=repository,
        start=int(item["timestamp"]["start"]),
        stop=int(item["timestamp"]["stop"]),
        start_lsn=parse_lsn(lsn["start"]),
        stop_lsn=parse_lsn(lsn["stop"]),
        start_timeline=timeline_of(item["archive"]["start"]),
        stop_timeline=timeline_of(item["archive"]["stop"]),
        system_identifier=identities.get((repository, item["database"]["id"]), 0),
        size=int(item["info"]["size"]),
        stored=int(item["info"]["repository"].get("delta") or 0),
        faulty=bool(item.get("error")),
        prior=item.get("prior") or "",
        annotations=dict(item.get("annotation") or {}),
    )


def parse_lsn(text: str) -> int:
    """Return a position such as 0/3000028 in bytes. Raises ValueError."""
    high, slash, low = text.partition("/")
    if not slash or not 1 <= len(high) <= 8 or not 1 <= len(low) <= 8:
        raise ValueError(f"{text!r} is not an LSN: two hexadecimal numbers with a slash, such as 0/3000028")
    if not all(character in "0123456789abcdefABCDEF" for character in high + low):
        raise ValueError(f"{text!r} is not an LSN: two hexadecimal numbers with a slash, such as 0/3000028")
    return (int(high, 16) << 32) + int(low, 16)


def format_lsn(position: int) -> str:
    """Return a position in bytes as PostgreSQL writes it."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def timeline_of(segment: str) -> int:
    """Return the timeline in the name of a WAL segment. Raises ValueError."""
    return int(segment[:8], 16)


def newest(backups: Iterable[Backup]) -> Backup | None:
    """Return the backup that ended last and is whole, or None."""
    return max((item for item in backups if not item.faulty), key=lambda item: item.stop, default=None)


def reason_against_copy(stanza: Stanza, system_identifier: int, timeline: int) -> str:
    """Return why a replica must not be made of the newest backup, or an empty string.

    A backup of another timeline than the primary's may lie beyond the point at which the primary's history left it; the replica
    would never follow. After a failover or a restore the next backup makes it usable again.
    """
    backup = newest(stanza.backups)
    if backup is None:
        return "there is no backup"
    if backup.system_identifier != system_identifier:
        return f"the newest backup {backup.label} is of the cluster {backup.system_identifier}, not {system_identifier}"
    if backup.stop_timeline != timeline:
        return f"the newest backup {backup.label} is of timeline {backup.stop_timeline}, the primary is on {timeline}"
    return ""
