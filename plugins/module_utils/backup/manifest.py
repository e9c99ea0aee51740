# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""A backup that is a folder of files, and the manifest that makes it one.

A backup lies in `<backup_dir>/<engine>/<label>/`. While it is made, and while it is deleted, its folder is called
`<label>.partial`: only a folder without that ending, with a manifest whose files are all there, is a backup. No I/O.
"""

from __future__ import annotations

import datetime
import json
import posixpath
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

FORMAT = 1
FILE_NAME = "manifest.json"
PARTIAL = ".partial"
ENGINES = ("logical", "valkey", "events")

_LABEL = re.compile(r"^(\d{8}T\d{6}Z)(-[a-z0-9][a-z0-9_-]*)?$")
_STAMP = "%Y%m%dT%H%M%SZ"
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_TEXTS = ("engine", "kind", "cluster", "label", "set", "start", "end")
_KEYS = frozenset({"format", *_TEXTS, "bytes", "position", "versions", "files"})


@dataclass(frozen=True)
class File:
    """One file of a backup: path below its folder, with slashes; size; digest."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a backup is.

    set: id that backups of all engines made by one run share, or empty. start and end: ISO 8601, UTC. bytes: of all files.
    position: where in the engine's history the backup lies (LSN and timeline, slot map and offsets). extras: what else the
    engine has to say, by names that are none of the manifest's own.
    """

    engine: str
    kind: str
    cluster: str
    label: str
    start: str
    end: str
    set: str = ""
    position: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[File, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)


def new_label(moment: datetime.datetime, kind: str = "", taken: Collection[str] = ()) -> str:
    """Return a label for a backup that starts now.

    Parameters: moment, with its time zone; kind, told in the label where one run makes several; taken, names of folders that are
    there, with or without `.partial`: the label is one second later for each that it would clash with.
    """
    if moment.tzinfo is None:
        raise ValueError("a label needs a time with its zone")
    known = {name.removesuffix(PARTIAL) for name in taken}
    suffix = f"-{kind}" if kind else ""
    moment = moment.astimezone(datetime.UTC)
    while True:
        label = f"{moment.strftime(_STAMP)}{suffix}"
        if label not in known:
            break
        moment += datetime.timedelta(seconds=1)
    if not is_label(label):
        raise ValueError(f"{kind!r} can't be part of a label: lower case letters, digits, - and _")
    return label


def is_label(name: str) -> bool:
    """Whether a name is that of a whole backup: 20261126T041243Z, 20261126T041243Z-full."""
    match = _LABEL.match(name)
    if not match:
        return False
    try:
        datetime.datetime.strptime(match[1], _STAMP)
    except ValueError:
        return False
    return True


def is_partial(name: str) -> bool:
    """Whether a folder holds a backup that is not whole: being made, being deleted, or left so."""
    return name.endswith(PARTIAL) and is_label(name.removesuffix(PARTIAL))


def iso(moment: datetime.datetime) -> str:
    """Return a time as manifests tell it."""
    return moment.astimezone(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(text: str) -> float:
    """Return a time of a manifest in seconds since 1970. Raises Refusal."""
    try:
        moment = datetime.datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))
    except ValueError as error:
        raise Refusal(f"{text!r} is not a time such as 2026-01-31T12:00:00Z") from error
    if moment.tzinfo is None:
        raise Refusal(f"{text!r} has no offset from UTC")
    return moment.timestamp()


def dump(manifest: Manifest) -> str:
    """Return the text of a manifest. Raises Refusal where parse would."""
    shared = _KEYS & set(manifest.extras)
    if shared:
        raise Refusal(f"extras may not be called {', '.join(sorted(shared))}")
    content = {
        "format": FORMAT,
        **{name: getattr(manifest, name) for name in _TEXTS},
        "bytes": manifest.bytes,
        "position": dict(manifest.position),
        "versions": dict(manifest.versions),
        "files": [asdict(file) for file in manifest.files],
        **manifest.extras,
    }
    text = json.dumps(content, indent=1, sort_keys=False) + "\n"
    parse(text)
    return text


def parse(text: str, label: str = "") -> Manifest:
    """Return the manifest in a text; with a label, it must be that backup's. Raises Refusal."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise Refusal(f"it is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise Refusal("it is not a JSON object")
    if content.get("format") != FORMAT:
        raise Refusal(f"format {content.get('format')!r} is unknown, this program knows {FORMAT}")
    for name in _TEXTS:
        if not isinstance(content.get(name), str):
            raise Refusal(f"{name} is not a text: {content.get(name)!r}")
    for name in ("position", "versions"):
        if not isinstance(content.get(name), dict):
            raise Refusal(f"{name} is not an object: {content.get(name)!r}")
    if not is_label(content["label"]):
        raise Refusal(f"label {content['label']!r} is none")
    if label and content["label"] != label:
        raise Refusal(f"it is the manifest of {content['label']}")
    if seconds(content["end"]) < seconds(content["start"]):
        raise Refusal(f"it ends ({content['end']}) before it starts ({content['start']})")
    manifest = Manifest(
        **{name: content[name] for name in _TEXTS},
        position=content["position"],
        versions=content["versions"],
        files=_files(content.get("files")),
        extras={name: value for name, value in content.items() if name not in _KEYS},
    )
    if content.get("bytes") != manifest.bytes:
        raise Refusal(f"bytes {content.get('bytes')!r} is not the sum of its files, {manifest.bytes}")
    return manifest


def _files(entries: object) -> tuple[File, ...]:
    if not isinstance(entries, list) or not entries:
        raise Refusal("it lists no files")
    files = []
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != {"path", "bytes", "sha256"}:
            raise Refusal(f"{entry!r} is not a file: path, bytes, sha256")
        path, size, digest = entry["path"], entry["bytes"], entry["sha256"]
        if not isinstance(path, str) or not _is_inside(path):
            raise Refusal(f"{path!r} is not a path inside the backup")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise Refusal(f"{path}: {size!r} bytes")
        if not isinstance(digest, str) or not _SHA256.match(digest):
            raise Refusal(f"{path}: {digest!r} is not a SHA-256")
        files.append(File(path, size, digest))
    if len({file.path for file in files}) != len(files):
        raise Refusal("it lists a file twice")
    return tuple(files)


def _is_inside(path: str) -> bool:
    return (
        bool(path)
        and not path.startswith("/")
        and posixpath.normpath(path) == path
        and not path.startswith("../")
        and path != ".."
    )


def problems(
    manifest: Manifest, sizes: Mapping[str, int], digests: Mapping[str, str] | None = None, limit: int = 5
) -> list[str]:
    """Return what keeps a backup from being good, in words; empty where it is whole.

    Parameters: sizes of the files found, by path below the backup's folder; digests of files found, or None where only
    presence and size were looked at; limit, how many to tell one by one.
    """
    found = [text for file in manifest.files if (text := _problem(file, sizes, digests))]
    listed = {file.path for file in manifest.files} | {FILE_NAME}
    found += [f"{path} is not in the manifest" for path in sorted(sizes) if path not in listed]
    return _shortened(found, limit)


def _problem(file: File, sizes: Mapping[str, int], digests: Mapping[str, str] | None) -> str:
    if file.path not in sizes:
        return f"{file.path} is missing"
    if sizes[file.path] != file.bytes:
        return f"{file.path} has {sizes[file.path]} bytes, not {file.bytes}"
    if digests is not None and digests.get(file.path) != file.sha256:
        return f"{file.path} has another content than was written (SHA-256)"
    return ""


def _shortened(found: list[str], limit: int) -> list[str]:
    return found if len(found) <= limit else [*found[:limit], f"and {len(found) - limit} more"]


def leftovers(names: Iterable[str]) -> list[str]:
    """Return the names of folders that a killed run left, for the next one to remove."""
    return sorted(name for name in names if is_partial(name))
