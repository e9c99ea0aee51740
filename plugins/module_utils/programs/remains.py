# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What releases up to 0.1 have left of their programs, which shared folders of code. No I/O.

A program was one file: in LIBRARY, where all shared `ansible_collections`, or in one of the folders below it that had such code of their
own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.programs.layout import LIBRARY

CODE = "ansible_collections"
OWN_FOLDERS = (f"{LIBRARY}/patroni", f"{LIBRARY}/pgbouncer")
PLACES = (LIBRARY, *OWN_FOLDERS)


@dataclass(frozen=True)
class Old:
    """What a host has of an earlier release.

    files: whether each file directly in one of PLACES imports shared code; code: those of PLACES that hold such code; called: files that
    units of other names than the programs' own start.
    """

    files: Mapping[str, bool]
    code: Collection[str]
    called: Collection[str] = ()


def old_paths(names: Collection[str]) -> set[str]:
    """Return where programs of these names may stand."""
    return {f"{place}/{name}" for place in PLACES for name in names}


def remains_of(names: Collection[str], commands: Collection[str], old: Old) -> list[str]:
    """Return what may be deleted once the programs of these names stand in folders of their own.

    Parameters: commands, paths at which something else is wished now.
    """
    gone = (old_paths(names) & set(old.files)) - set(commands) - set(old.called)
    staying = {path: imports for path, imports in old.files.items() if path not in gone and path not in commands}
    found = sorted(gone)
    for place in old.code:
        beside = [imports for path, imports in staying.items() if path.rpartition("/")[0] == place]
        if not any(beside):
            found.append(f"{place}/{CODE}" if beside or place == LIBRARY else place)
    return found
