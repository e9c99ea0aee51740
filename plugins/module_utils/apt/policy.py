# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What apt would install, out of `apt-cache policy`, and what runs an older program than the one on disk. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

_NONE = "(none)"
# Files of a program that its interpreter has read: the process tells only the interpreter.
INTERPRETER = re.compile(r"^(python|perl|ruby)[0-9.]*$")


@dataclass(frozen=True)
class Package:
    """An installed package. candidate is what apt would install, empty where it knows none."""

    name: str
    installed: str
    candidate: str = ""

    @property
    def is_newer(self) -> bool:
        """Whether apt has another version than the one that is installed."""
        return bool(self.candidate) and self.candidate != self.installed


@dataclass(frozen=True)
class Process:
    """A running program. path is where its program was, replaced whether it is no longer there; started in seconds since 1970."""

    path: str
    replaced: bool
    started: float


@dataclass(frozen=True)
class Program:
    """A service and the packages it consists of. process is None while it does not run."""

    name: str
    packages: tuple[str, ...] = ()
    process: Process | None = None
    unpacked: Mapping[str, float] = field(default_factory=dict)


def parse_policy(text: str) -> list[Package]:
    """Return the installed packages in the output of `apt-cache policy`, in its order."""
    packages: list[Package] = []
    name, installed = "", ""
    for line in text.splitlines():
        words = line.split()
        if not line.startswith(" ") and line.endswith(":"):
            name, installed = line[:-1].partition(":")[0], ""
        elif words[:1] == ["Installed:"]:
            installed = words[1]
        elif words[:1] == ["Candidate:"] and installed not in ("", _NONE):
            packages.append(Package(name, installed, "" if words[1] == _NONE else words[1]))
    return packages


def newer(packages: Iterable[Package]) -> list[str]:
    """Return what would be upgraded, one line each."""
    return [f"{package.name} {package.installed} -> {package.candidate}" for package in packages if package.is_newer]


def outdated(program: Program) -> list[str]:
    """Return why a running program is not the one on disk, one line each; nothing where it is, or does not run."""
    process = program.process
    if process is None:
        return []
    if process.replaced:
        return [f"{program.name} runs a program that was replaced on disk"]
    if not INTERPRETER.match(process.path.rpartition("/")[2]):
        return []
    return [
        f"{program.name} runs since before {package} was unpacked"
        for package in program.packages
        if program.unpacked.get(package, 0.0) > process.started
    ]


def parse_process(stat: str, boot_time: float, ticks: int) -> float:
    """Return when a process started, in seconds since 1970, from /proc/PID/stat (proc(5): starttime is field 22).

    Raises ValueError for other text.
    """
    fields: Sequence[str] = stat.rpartition(")")[2].split()
    if len(fields) < 20:
        raise ValueError(f"not a /proc/PID/stat: {stat[:80]!r}")
    return boot_time + int(fields[19]) / ticks


def parse_boot_time(stat: str) -> float:
    """Return when the kernel started, in seconds since 1970, from /proc/stat. Raises ValueError where it does not say."""
    for line in stat.splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    raise ValueError("/proc/stat has no line btime")
