# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What differs between a program's folder as it is wished and as it is on a host. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.holdfast.persistence.plugins.module_utils.files.wish import FileWish, Found, compare, show
from ansible_collections.holdfast.persistence.plugins.module_utils.programs.layout import (
    VERSION,
    version_text,
)

FILE_MODE = 0o644


@dataclass(frozen=True)
class Build:
    """A program's folder on a host.

    files: what is in it, by relative path, compiled code left out; others: names beside the folder that belong to no build in use,
    as a killed run leaves them; blocker: what stands in the folder's place and is not ours to replace, else empty.
    """

    exists: bool = False
    files: Mapping[str, Found] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    blocker: str = ""


@dataclass(frozen=True)
class State:
    """How a program on a host compares with the collection's.

    state: `current`, `missing`, `outdated` (a whole build, but another one) or `altered` (some file is not as any build had it);
    version and wanted: what VERSION holds and should hold; found: that in words.
    """

    name: str
    state: str
    version: str
    wanted: str
    found: str


def wish_of(path: str, relative: str, content: str) -> FileWish:
    """Return the wish of one file of a program: everybody may read it, root alone may write it."""
    return FileWish(f"{path}/{relative}", content, "root", "root", FILE_MODE)


def differences(path: str, wished: Mapping[str, str], build: Build) -> dict[str, tuple[str, ...]]:
    """Return why each file differs, by relative path; a file that does not belong there differs too."""
    found = {
        relative: compare(wish_of(path, relative, content), build.files.get(relative, Found())).reasons
        for relative, content in wished.items()
    }
    found |= {relative: ("does not belong there",) for relative in build.files if relative not in wished}
    return {relative: reasons for relative, reasons in sorted(found.items()) if reasons}


def state_of(name: str, path: str, wished: Mapping[str, str], build: Build) -> State:
    """Return how the program of a host compares with what the collection would install."""
    wanted = wished[VERSION].strip()
    if not build.exists:
        return State(name, "missing", "", wanted, f"{path} is missing")
    differing = differences(path, wished, build)
    said = build.files[VERSION].content.decode(errors="replace").strip() if VERSION in build.files else ""
    if not differing:
        return State(name, "current", said, wanted, f"version {said}")
    contents = {relative: file.content.decode(errors="replace") for relative, file in build.files.items()}
    if said and said != wanted and version_text(said.split()[0], contents).strip() == said:
        return State(name, "outdated", said, wanted, f"version {said}")
    named = ", ".join(f"{relative} {' and '.join(reasons)}" for relative, reasons in differing.items())
    return State(name, "altered", said, wanted, f"{path}: {named}")


def diff_of(path: str, wished: Mapping[str, str], build: Build) -> str:
    """Return what installing the program changes, as a unified diff."""
    lines = []
    for relative, reasons in differences(path, wished, build).items():
        if relative in wished:
            wish, found = wish_of(path, relative, wished[relative]), build.files.get(relative, Found())
            lines.append(show(wish, found, compare(wish, found)))
        else:
            lines.append(f"# {path}/{relative} {reasons[0]}: deleted\n")
    lines += [f"# {name} beside {path} is of no build in use: deleted\n" for name in build.others]
    return "".join(lines)
