# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What differs between the files that are wished and those that are there. No I/O."""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class FileWish:
    """A file as it should be. content is None for a folder. sensitive: its content never shows in a diff."""

    path: str
    content: str | None
    owner: str
    group: str
    mode: int
    sensitive: bool = False


@dataclass(frozen=True)
class Found:
    """A file as it is. kind: missing, file, folder or other (link, socket, …)."""

    kind: str = "missing"
    content: bytes = b""
    owner: str = ""
    group: str = ""
    mode: int = 0


@dataclass(frozen=True)
class Difference:
    """What must change. reasons: one short text each; blocker: why it cannot be changed, else empty."""

    reasons: tuple[str, ...] = ()
    rewrite: bool = False
    blocker: str = ""

    def __bool__(self) -> bool:
        return bool(self.reasons)


def parse_mode(text: str) -> int:
    """Return the permission bits of an octal text such as 0640. Raises ValueError for anything else."""
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise ValueError(f"mode {text!r} is not octal; write it as text, for example '0640'")
    return mode


def compare(wish: FileWish, found: Found) -> Difference:
    """Return what of found differs from wish."""
    expected = "folder" if wish.content is None else "file"
    if found.kind == "missing":
        return Difference(("is missing",), rewrite=True)
    if found.kind != expected and not (expected == "file" and found.kind == "other"):
        return Difference((f"is a {found.kind}",), blocker=f"it is a {found.kind}, a {expected} is wanted")
    reasons = []
    rewrite = found.kind == "other" or (wish.content is not None and found.content != wish.content.encode())
    if rewrite:
        reasons.append("content differs")
    if (found.owner, found.group) != (wish.owner, wish.group):
        reasons.append(f"belongs to {found.owner}:{found.group}, not {wish.owner}:{wish.group}")
    if found.mode != wish.mode:
        reasons.append(f"has mode {found.mode:04o}, not {wish.mode:04o}")
    return Difference(tuple(reasons), rewrite)


def show(wish: FileWish, found: Found, difference: Difference) -> str:
    """Return a unified diff of the content and of what else changes; for a sensitive file only that it changes."""
    lines = [f"# {wish.path} {reason}\n" for reason in difference.reasons]
    if wish.content is not None and difference.rewrite and not wish.sensitive:
        before = found.content.decode(errors="replace").splitlines(keepends=True)
        after = wish.content.splitlines(keepends=True)
        name = wish.path if found.kind == "file" else "/dev/null"
        lines += [_whole(line) for line in difflib.unified_diff(before, after, name, wish.path)]
    return "".join(lines)


def _whole(line: str) -> str:
    return line if line.endswith("\n") else line + "\n"
