# SPDX-License-Identifier: Apache-2.0
"""What the roles declare, and which variables their files use. Reads files, runs nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2 import nodes

ROOT = Path(__file__).resolve().parents[3]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())

# Keys whose text is an expression without braces around it.
EXPRESSIONS = {"when", "until", "changed_when", "failed_when", "that"}
# Keys that give names to values inside a task file.
NAMING = {"register", "loop_var", "index_var"}

_ENVIRONMENT = jinja2.Environment(extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"], autoescape=False)


def load(path: Path) -> Any:
    """Return the content of a YAML file; an empty or missing file is an empty mapping."""
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


def specification(role: str) -> dict[str, dict[str, Any]]:
    """Return the options of a role's entry point `main`."""
    specs = load(ROOT / "roles" / role / "meta/argument_specs.yml")
    options: dict[str, dict[str, Any]] = specs["argument_specs"]["main"].get("options") or {}
    return options


def defaults(role: str) -> dict[str, Any]:
    """Return a role's defaults in the order of the file."""
    content: dict[str, Any] = load(ROOT / "roles" / role / "defaults/main.yml")
    return content


def yaml_files(*folders: Path) -> list[Path]:
    """Return every YAML file below the folders."""
    return sorted(path for folder in folders for path in folder.rglob("*.yml"))


@cache
def declared() -> frozenset[str]:
    """Return every variable that some role declares: as an option, or as a constant in vars/."""
    names: set[str] = set()
    for role in ROLES:
        names |= set(specification(role)) | set(defaults(role))
        for path in yaml_files(ROOT / "roles" / role / "vars"):
            names |= set(load(path))
    return frozenset(names)


def loaded_names(source: str) -> set[str]:
    """Return the names a Jinja template reads and does not itself set."""
    tree = _ENVIRONMENT.parse(source)
    names = list(tree.find_all(nodes.Name))
    bound = {name.name for name in names if name.ctx in {"store", "param"}} | {
        macro.name for macro in tree.find_all(nodes.Macro)
    }
    return {name.name for name in names if name.ctx == "load"} - bound


def names_in(content: Any, is_expression: bool = False) -> Iterator[str]:
    """Yield the names that all templates inside YAML content read."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from names_in(key)
            yield from names_in(value, key in EXPRESSIONS)
    elif isinstance(content, list):
        for item in content:
            yield from names_in(item, is_expression)
    elif isinstance(content, str):
        has_braces = "{{" in content or "{%" in content
        if has_braces or is_expression:
            yield from loaded_names(content if has_braces else "{{ " + content + " }}")


def bound_in(content: Any) -> Iterator[str]:
    """Yield the names that tasks inside YAML content give to values."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key in NAMING:
                yield value
            elif key in {"vars", "ansible.builtin.set_fact"} and isinstance(value, dict):
                yield from value
            yield from bound_in(value)
    elif isinstance(content, list):
        for item in content:
            yield from bound_in(item)


def uses(path: Path) -> set[str]:
    """Return the names that a file of a role or playbook reads: YAML, or a template."""
    if path.suffix == ".yml" and "templates" not in path.parts:
        return set(names_in(load(path)))
    return loaded_names(path.read_text(encoding="utf-8"))


def role_sources(role: str) -> list[Path]:
    """Return the files of a role in which variables are used."""
    folder = ROOT / "roles" / role
    templates = [path for path in (folder / "templates").rglob("*") if path.is_file()]
    return yaml_files(*(folder / part for part in ("tasks", "handlers", "vars", "defaults"))) + sorted(templates)


def role_bindings(role: str) -> set[str]:
    """Return the names that a role's tasks give to values."""
    return {name for path in yaml_files(ROOT / "roles" / role / "tasks") for name in bound_in(load(path))}


def belongs_to_a_role(name: str) -> bool:
    """Return whether a variable carries the prefix of one of the roles."""
    return re.match(rf"(?:__)?(?:{'|'.join(ROLES)})_", name) is not None
