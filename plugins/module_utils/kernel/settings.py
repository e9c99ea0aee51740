# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Kernel settings under /proc/sys and /sys: names, values and refusals. No I/O."""

from __future__ import annotations

import errno
from dataclasses import dataclass

# What a machine answers that does not let its settings be changed from here: a container's read-only mount,
# a setting without a namespace of its own, a kernel without the setting. Anything else (EINVAL) is a wrong value.
REFUSALS = {
    errno.EROFS: "read-only on this machine",
    errno.EACCES: "not permitted on this machine",
    errno.EPERM: "not permitted on this machine",
    errno.ENOENT: "unknown to this kernel",
}


@dataclass(frozen=True)
class Setting:
    """One setting: its name as the user wrote it, its file, the wished value."""

    name: str
    path: str
    value: str


def to_setting(name: str, value: object) -> Setting:
    """Return the setting of a sysctl name (vm.swappiness) or of an absolute path (/sys/kernel/…).

    sysctl(8): dots separate unless the name has slashes, then slashes do (net/ipv4/conf/eth0.1/forwarding).
    Raises ValueError for a name that leaves /proc/sys.
    """
    if ".." in name or not name.strip():
        raise ValueError(f"{name!r} is not the name of a kernel setting")
    below_proc = name if "/" in name else name.replace(".", "/")
    return Setting(name, name if name.startswith("/") else "/proc/sys/" + below_proc, normalise(str(value)))


def normalise(text: str) -> str:
    """Return a value with single blanks: 'cubic\\n' -> 'cubic', '4096\\t87380' -> '4096 87380'."""
    return " ".join(text.split())


def current(text: str) -> str:
    """Return the value in force: of a list of choices the one in brackets, 'always [madvise] never' -> 'madvise'."""
    words = text.split()
    chosen = [word[1:-1] for word in words if word.startswith("[") and word.endswith("]")]
    return chosen[0] if len(chosen) == 1 and len(words) > 1 else " ".join(words)


def explain(skipped: dict[str, str]) -> str:
    """Return one sentence about the refused settings, given as reason by name."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        by_reason.setdefault(reason, []).append(name)
    parts = [f"{reason}: {', '.join(sorted(names))}" for reason, names in sorted(by_reason.items())]
    return "Kernel settings left as they are; " + "; ".join(parts)
