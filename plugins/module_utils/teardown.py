# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What may be deleted, and what there is to stop and delete. No I/O."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusals

# Folders that belong to the system or to many: never deleted as a whole, only what is deeper in them.
SHARED = frozenset({
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc", "/root", "/run",
    "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var",
    "/etc/apt", "/etc/default", "/etc/postgresql", "/etc/ssl", "/etc/sysctl.d", "/etc/systemd", "/etc/systemd/system",
    "/etc/tmpfiles.d", "/usr/bin", "/usr/lib", "/usr/local", "/usr/local/bin", "/usr/local/lib", "/usr/sbin", "/usr/share",
    "/var/backups", "/var/cache", "/var/lib", "/var/lib/dpkg", "/var/lib/postgresql", "/var/lib/systemd", "/var/log",
    "/var/run", "/var/spool", "/var/tmp",
})  # fmt: skip


@dataclass(frozen=True)
class Unit:
    """A unit as systemd knows it: load state (`not-found`), active state, unit file state."""

    name: str
    load: str
    active: str
    file: str

    @property
    def runs(self) -> bool:
        """Whether there is something to stop."""
        return self.active not in ("inactive", "failed", "")

    @property
    def starts_at_boot(self) -> bool:
        """Whether there is something to disable."""
        return self.file in ("enabled", "enabled-runtime")


def parse_units(text: str) -> dict[str, Unit]:
    """Return units by name from the output of `systemctl show --property=Id,LoadState,ActiveState,UnitFileState`."""
    found = {}
    for block in text.strip().split("\n\n"):
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in fields:
            name = fields["Id"]
            found[name] = Unit(
                name, fields.get("LoadState", ""), fields.get("ActiveState", ""), fields.get("UnitFileState", "")
            )
    return found


def check_paths(paths: Iterable[str], mounts: Collection[str]) -> list[str]:
    """Return the paths in normal form, without those inside others.

    Parameters: mounts, the mount points of the host. Raises Refusals with all problems: a path that is not absolute,
    belongs to the system, or has a file system mounted inside it.
    """
    wished = sorted({posixpath.normpath(path) if path.startswith("/") else path for path in paths})
    wished = [path.replace("//", "/") for path in wished]
    problems = [problem for path in wished for problem in _problems(path, mounts)]
    if problems:
        raise Refusals(problems)
    return [path for path in wished if not any(_inside(path, other) for other in wished)]


def _problems(path: str, mounts: Collection[str]) -> list[str]:
    if not path.startswith("/"):
        return [f"{path!r} is not an absolute path"]
    if path in SHARED:
        return [f"{path} belongs to the system and is never deleted: name what is inside it"]
    return [
        f"{mount} is mounted inside {path}: unmount it, or empty it by hand" for mount in mounts if _inside(mount, path)
    ]


def _inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def describe(units: Iterable[Unit], sizes: Mapping[str, tuple[int, int]]) -> str:
    """Return what there is to stop and delete, one line each, for diff.

    Parameters: sizes, number of files and bytes by path.
    """
    lines = [f"unit {unit.name}: {_state(unit)}" for unit in units if unit.runs or unit.starts_at_boot]
    lines += [f"{path}: {files} files, {count} bytes" for path, (files, count) in sizes.items()]
    return "".join(f"{line}\n" for line in lines)


def _state(unit: Unit) -> str:
    return ", ".join(
        word for word, wanted in ((unit.active, unit.runs), ("starts at boot", unit.starts_at_boot)) if wanted
    )
