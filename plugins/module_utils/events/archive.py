# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The archive of an event store: what its manifest says beyond that of any backup, and how it proves itself. No I/O.

An archive is a backup that is a folder of files (backup/manifest.py): one file for each part of a table, PostgreSQL's COPY text in
one zstd frame, UTF-8, times in UTC; and `manifest.json`, written last. The manifest's `archive` says which table, columns and rows
each file holds, so that `zstd -dc FILE | psql -c "COPY table (columns) FROM STDIN"` is all that a reader needs. `archive.sha256` is
the digest of everything else in the manifest, which holds the digests of the files: a flipped bit anywhere is found.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup.manifest import Manifest
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

FORMAT = "holdfast-events"
VERSION = 1
# Versions of the format that are read; new ones join, none leaves.
READABLE = (1,)
ENGINE = "events"
MARTEN, AKKA = "marten", "akka"
COPY_TEXT, JSON_LINES = "copy-text", "jsonl"
ENCODINGS = {"archive": COPY_TEXT, "jsonl": JSON_LINES}
ROLES = (
    "events",
    "streams",
    "cuts",
    "side",
    "daemon",
    "documents",
    "other",
    "journal",
    "snapshots",
    "tags",
    "metadata",
)
_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,62}$")


@dataclass(frozen=True)
class Part:
    """One file: rows of a table. first and last: the sequence numbers that it was cut by, 0 where rows have none."""

    file: str
    table: str
    role: str
    rows: int
    columns: tuple[str, ...]
    lane: str = ""
    first: int = 0
    last: int = 0


@dataclass(frozen=True)
class Archive:
    """What an archive holds.

    kind: `marten` or `akka`. name: what its operator calls it. encoding: `copy-text`, which can be imported, or `jsonl`. shape: as
    shape.describe tells it. selection: which events were asked for. source: server, database and snapshot that they come from.
    tables: columns with their types, and the key, by table.
    sequences: last number given, by tenant (empty for the store's). totals: rows by role. cut: streams of which it does not hold
    all earlier events.
    """

    kind: str
    name: str
    encoding: str
    shape: Mapping[str, Any]
    selection: Mapping[str, Any]
    source: Mapping[str, Any]
    parts: tuple[Part, ...]
    tables: Mapping[str, Any] = field(default_factory=dict)
    sequences: Mapping[str, int] = field(default_factory=dict)
    totals: Mapping[str, int] = field(default_factory=dict)
    cut: int = 0

    def of(self, *roles: str) -> list[Part]:
        """Return the parts of some roles, in their order."""
        return [part for part in self.parts if part.role in roles]


def check_name(name: str) -> str:
    """Return the name of an archive. Raises Refusal."""
    if not _NAME.match(name):
        raise Refusal(
            f"archive {name!r}: allowed are up to 63 lower case letters, digits, - and _, the first a letter or digit"
        )
    return name


def extras(archive: Archive) -> dict[str, Any]:
    """Return what a backup's manifest says of an archive, without its seal."""
    content = asdict(archive)
    content["parts"] = [{**asdict(part), "columns": list(part.columns)} for part in archive.parts]
    return {"archive": {"format": FORMAT, "version": VERSION, **content}}


def seal(content: Mapping[str, Any]) -> str:
    """Return the digest over a manifest's whole content, whatever its own seal says."""
    rest = {**content, "archive": {key: value for key, value in content["archive"].items() if key != "sha256"}}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sealed(text: str) -> dict[str, Any]:
    """Return the extras of a manifest with the seal over its text, which must be that of the same manifest without it."""
    content = json.loads(text)
    return {"archive": {**content["archive"], "sha256": seal(content)}}


def parse(manifest: Manifest, text: str) -> Archive:
    """Return the archive of a backup. text: of its manifest. Raises Refusal where it is none, or not as it was written."""
    label = manifest.label
    told = manifest.extras.get("archive")
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise Refusal(f"{label} is not an archive of events: its manifest does not say format {FORMAT}")
    if told.get("version") not in READABLE:
        readable = ", ".join(map(str, READABLE))
        raise Refusal(
            f"{label} has format version {told.get('version')!r}; this release reads {readable}. Use a newer release"
        )
    if told.get("sha256") != seal(json.loads(text)):
        raise Refusal(
            f"{label}: manifest.json has another content than was written (SHA-256). Take another copy of the archive"
        )
    try:
        found = _archive(told)
    except (KeyError, TypeError, ValueError) as error:
        raise Refusal(f"{label}: manifest.json does not describe an archive: {error!r}") from error
    listed = {file.path for file in manifest.files}
    lost = [part.file for part in found.parts if part.file not in listed]
    if lost:
        raise Refusal(f"{label}: {lost[0]} is a part of the archive, but none of its files")
    return found


def _archive(told: Mapping[str, Any]) -> Archive:
    parts = tuple(Part(**{**part, "columns": tuple(part["columns"])}) for part in told["parts"])
    names = set(Archive.__dataclass_fields__) - {"parts"}
    found = Archive(**{name: told[name] for name in names}, parts=parts)
    if found.kind not in (MARTEN, AKKA) or found.encoding not in ENCODINGS.values():
        raise ValueError(f"kind {found.kind}, encoding {found.encoding}")
    wrong = [part.role for part in parts if part.role not in ROLES]
    if wrong:
        raise ValueError(f"role {wrong[0]}")
    return found


def require_importable(archive: Archive, kind: str) -> None:
    """Raise Refusal where an archive can't be imported as one of a kind."""
    if archive.kind != kind:
        program = {MARTEN: "events_import.yml", AKKA: "akka_import.yml"}[archive.kind]
        raise Refusal(f"{archive.name} is an archive of {archive.kind}, not of {kind}: {program} imports that kind")
    if archive.encoding != COPY_TEXT:
        raise Refusal(
            f"{archive.name} has the format {archive.encoding}, which is an output for people and other tools and can't be imported. "
            "Export with the format archive"
        )


def overlaps(archives: Iterable[Archive]) -> list[str]:
    """Return which archives hold the same sequence numbers of the same store, in words."""
    found: list[str] = []
    seen: list[tuple[Any, str, str, int, int]] = []
    for archive in archives:
        source = (archive.source.get("system_identifier"), archive.source.get("database"), archive.shape.get("schema"))
        for part in archive.of("events"):
            for other_source, name, lane, first, last in seen:
                if (
                    (source, part.lane) == (other_source, lane)
                    and name != archive.name
                    and first <= part.last
                    and part.first <= last
                ):
                    text = (
                        f"{archive.name} and {name} both hold events {max(first, part.first)} to {min(last, part.last)}"
                    )
                    found += [text] if text not in found else []
            seen.append((source, archive.name, part.lane, part.first, part.last))
    return found
