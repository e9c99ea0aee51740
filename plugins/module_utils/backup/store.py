# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Backups that are folders, on disk: begin, finish, read, verify, remove. Every step may be interrupted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import manifest as manifests
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import proofs
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.manifest import File, Manifest
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import make_folders, replace_file, sync
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

DELETIONS = "deletions.jsonl"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Found:
    """One folder of an engine that claims to be a backup; manifest is None where that can't be used, problems say why."""

    engine: str
    label: str
    path: str
    manifest: Manifest | None
    sha256: str
    problems: tuple[str, ...]


def begin(backup_dir: str, engine: str, label: str) -> str:
    """Make the folder of a backup that is about to be made; return its path, which ends in `.partial`."""
    path = os.path.join(backup_dir, engine, label + manifests.PARTIAL)
    make_folders(os.path.dirname(path), 0o750)
    os.mkdir(path)
    os.chmod(path, 0o750)
    return path


def finish(partial: str, manifest: Manifest) -> str:
    """Make a backup of a folder: write its manifest, have all of it on disk, rename it; return the new path.

    Files are the manifest's; each must have been written already.
    """
    text = manifests.dump(manifest)
    for folder, _folders, names in os.walk(partial):
        for name in names:
            sync(os.path.join(folder, name))
        sync(folder)
    path = os.path.join(partial, manifests.FILE_NAME)
    replace_file(path, text, mode=0o640)
    final = partial.removesuffix(manifests.PARTIAL)
    os.rename(partial, final)
    sync(os.path.dirname(final))
    return final


def files(folder: str) -> Iterator[str]:
    """Return the paths of all files of a folder, below it, the manifest left out."""
    for path, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            relative = os.path.relpath(os.path.join(path, name), folder)
            if relative != manifests.FILE_NAME:
                yield relative


def digest(path: str) -> str:
    """Return the SHA-256 of a file."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def describe(folder: str) -> tuple[File, ...]:
    """Return all files of a folder with size and digest, as a manifest lists them."""
    return tuple(
        File(relative, os.path.getsize(path), digest(path))
        for relative in files(folder)
        for path in [os.path.join(folder, relative)]
    )


def look(backup_dir: str, engine: str, label: str, deep: bool = False) -> Found:
    """Return one backup and what is wrong with it; with deep, contents are compared with their digests."""
    return look_at(os.path.join(backup_dir, engine, label), engine, label, deep)


def look_at(path: str, engine: str, label: str, deep: bool = False) -> Found:
    """Return the backup of that label in a folder, whatever the folder is called."""
    try:
        with open(os.path.join(path, manifests.FILE_NAME), encoding="utf-8") as file:
            text = file.read()
        manifest = manifests.parse(text, label)
    except FileNotFoundError:
        return Found(engine, label, path, None, "", ("manifest.json is missing",))
    except (OSError, UnicodeDecodeError, Refusal) as error:
        return Found(engine, label, path, None, "", (f"manifest.json: {error}",))
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    if manifest.engine != engine:
        return Found(engine, label, path, None, sha256, (f"manifest.json: it is of the engine {manifest.engine}",))
    present = list(files(path))
    sizes = {relative: os.path.getsize(os.path.join(path, relative)) for relative in present}
    digests = {relative: digest(os.path.join(path, relative)) for relative in present} if deep else None
    return Found(engine, label, path, manifest, sha256, tuple(manifests.problems(manifest, sizes, digests)))


def labels(backup_dir: str, engine: str) -> list[str]:
    """Return the names of an engine's folders that claim to be whole, oldest first."""
    return sorted(name for name in names(backup_dir, engine) if manifests.is_label(name))


def names(backup_dir: str, engine: str) -> list[str]:
    """Return the names of all folders of an engine, the unfinished ones too."""
    try:
        return sorted(os.listdir(os.path.join(backup_dir, engine)))
    except FileNotFoundError:
        return []


def read(backup_dir: str, engine: str, deep: bool = False) -> list[Found]:
    """Return all backups of an engine, oldest first."""
    return [look(backup_dir, engine, label, deep) for label in labels(backup_dir, engine)]


def sweep(backup_dir: str, engine: str, skip: str = "") -> list[str]:
    """Remove what killed runs left of an engine; return the names. Only for who holds the engine's lock."""
    found = [name for name in manifests.leftovers(names(backup_dir, engine)) if name != skip]
    for name in found:
        shutil.rmtree(os.path.join(backup_dir, engine, name))
    return found


def remove(backup_dir: str, engine: str, label: str, reason: str, moment: str) -> None:
    """Delete a backup: it stops being one at once, and the deletion is recorded first. moment: ISO 8601."""
    if not manifests.is_label(label):
        raise ValueError(f"{label!r} is not a label")
    path = os.path.join(backup_dir, engine, label)
    record(backup_dir, {"time": moment, "engine": engine, "label": label, "reason": reason})
    partial = path + manifests.PARTIAL
    os.rename(path, partial)
    sync(os.path.dirname(path))
    shutil.rmtree(partial)


def record(backup_dir: str, event: dict[str, str]) -> None:
    """Append to the list of deletions."""
    path = os.path.join(backup_dir, DELETIONS)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    try:
        os.write(descriptor, (json.dumps(event) + "\n").encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_proof(backup_dir: str, proof: proofs.Proof) -> str:
    """Write a proof; return its path."""
    folder = os.path.join(backup_dir, proofs.FOLDER, proof.engine)
    make_folders(folder, 0o750)
    path = os.path.join(folder, f"{proof.label}.json")
    replace_file(path, proofs.dump(proof), mode=0o640)
    return path


def read_proofs(backup_dir: str) -> tuple[list[proofs.Proof], list[str]]:
    """Return all proofs, and what was wrong with those that can't be understood."""
    found, wrong = [], []
    root = os.path.join(backup_dir, proofs.FOLDER)
    for folder, _folders, entries in os.walk(root):
        for name in sorted(entries):
            if not name.endswith(".json"):
                continue
            path = os.path.join(folder, name)
            try:
                with open(path, encoding="utf-8") as file:
                    found.append(proofs.parse(file.read()))
            except (OSError, UnicodeDecodeError, Refusal) as error:
                wrong.append(f"{path}: {error}")
    return found, wrong


@contextlib.contextmanager
def unfinished(backup_dir: str, engine: str, label: str) -> Iterator[str]:
    """Give the folder of a backup that is made in the block; an error there removes it."""
    path = begin(backup_dir, engine, label)
    try:
        yield path
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
