# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""An exported inventory as files. No I/O."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.inventory.model import AREAS, KINDS, Note, Plan

_HEADS = {
    "cluster": "What all of the cluster shares.",
    "postgresql": "PostgreSQL and Patroni.",
    "balancer": "PgBouncer and HAProxy.",
    "valkey": "Valkey.",
}
_WIDTH = 136
NAMES = ("hosts.yml", "README.md", *(f"group_vars/all/{area}.yml" for area in AREAS))


def files(plan: Plan, dump: Callable[[Any], str]) -> dict[str, str]:
    """Return the content of each file, by its path in the inventory's folder. dump makes YAML of a value."""
    found = {"hosts.yml": _hosts(plan, dump)}
    for area in AREAS:
        notes = [note for note in plan.notes if note.area == area]
        if plan.variables.get(area) or notes:
            found[f"group_vars/all/{area}.yml"] = _variables(area, plan.variables.get(area) or {}, notes, dump)
    found["README.md"] = _readme(plan)
    return found


def _hosts(plan: Plan, dump: Callable[[Any], str]) -> str:
    children: dict[str, Any] = {}
    told: set[str] = set()
    for group, names in plan.groups.items():
        # Variables stand with a host where it comes first.
        children[group] = {
            "hosts": {name: (dict(plan.hosts.get(name) or {}) if name not in told else {}) for name in names}
        }
        told.update(names)
    head = "---\n" + _comment(
        "Hosts and groups of the running cluster. README.md says what has to be decided before the first run."
    )
    return head + dump({"all": {"children": children}}).replace(": {}\n", ":\n")


def _variables(area: str, variables: Mapping[str, Any], notes: Iterable[Note], dump: Callable[[Any], str]) -> str:
    remaining = list(notes)
    blocks = []
    for name, value in variables.items():
        own = [note for note in remaining if note.about == name]
        remaining = [note for note in remaining if note.about != name]
        blocks.append("".join(_comment(_sentence(note)) for note in own) + dump({name: value}))
    head = "---\n" + _comment(_HEADS[area])
    others = "".join(_comment(f"{note.about}: {_sentence(note)}") for note in remaining)
    empty = "" if blocks else "{}\n"
    return head + others + ("\n" if others and blocks else "") + "\n".join(blocks) + empty


def _sentence(note: Note) -> str:
    word = {"secret": "SECRET", "decide": "DECIDE", "lost": "NOT KEPT"}[note.kind]
    return f"{word}: {note.text}"


def _comment(text: str) -> str:
    return "".join(
        f"# {line}\n" for line in textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    )


def _readme(plan: Plan) -> str:
    parts = [
        f"# {plan.name}",
        "",
        "The inventory that would keep this cluster, written by export_inventory.yml. No secret stands in it.",
    ]
    parts += ["Hosts were not changed. Run preflight.yml with it first, then site.yml with --check --diff."]
    for kind, title in KINDS.items():
        notes = list(dict.fromkeys((note.about, note.text) for note in plan.notes if note.kind == kind))
        if notes:
            parts += ["", f"## {title}", "", *(f"- `{about}`: {text}" for about, text in notes)]
    return "\n".join(parts) + "\n"
