# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""This collection on the controller: its version, its code, its programs and their units."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import yaml
from ansible_collections.holdfast.persistence.plugins.module_utils.programs.layout import (
    VERSION,
    main_text,
    module_of,
    version_text,
)
from ansible_collections.holdfast.persistence.plugins.plugin_utils.programs.closure import (
    NAMESPACE,
    Closure,
    closure_of,
    refusal,
)

ROOT = Path(__file__).absolute().parents[3]
UNIT_TYPES = ("path", "timer", "service")


@cache
def read(path: str) -> str | None:
    """Return the content of a file of the collection, None where there is none."""
    try:
        return (ROOT / path).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None


@cache
def version() -> str:
    """Return the collection's version: an installed one has a manifest, a checkout what the manifest is made of."""
    manifest = read("MANIFEST.json")
    if manifest is not None:
        return str(json.loads(manifest)["collection_info"]["version"])
    return str(yaml.safe_load(read("galaxy.yml") or "")["version"])


def source_of(name: str) -> str:
    """Return the path of a program's source in the collection. Raises Refusal unless one role has it."""
    pattern = f"roles/*/files/{module_of(name)}.py"
    found = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern))
    if len(found) != 1:
        places = ", ".join(found) or "nowhere"
        raise refusal(
            f"Program {name}", f"has to have its source in one role, as {pattern}; found {places}", "Correct its name"
        )
    return found[0]


def units_of(name: str) -> dict[str, str]:
    """Return the unit files of a program by name, those that start others first."""
    folder = Path(source_of(name)).parent
    found = {f"{name}.{kind}": read(f"{folder}/{name}.{kind}") for kind in UNIT_TYPES}
    return {unit: text for unit, text in found.items() if text is not None}


@cache
def closure(name: str) -> Closure:
    """Return the code that a program imports. Raises Refusal."""
    return closure_of(source_of(name), read)


@cache
def folder_of(name: str) -> dict[str, str]:
    """Return the files of a program's folder by relative path. Raises Refusal."""
    # Of its own, so that a package of the same name elsewhere on the host is not taken for it.
    top = {f"{NAMESPACE[0]}/__init__.py": "# Written by Ansible (holdfast.persistence).\n"}
    code = {"/".join([*NAMESPACE, path]): text for path, text in closure(name).files.items()}
    files = {"__main__.py": main_text(name), f"{module_of(name)}.py": read(source_of(name)) or "", **top, **code}
    return {**files, VERSION: version_text(version(), files)}
