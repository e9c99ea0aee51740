# SPDX-License-Identifier: Apache-2.0
"""The English that users read, as far as a machine can judge: names of plays and tasks, and turns that docs/style.md refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
PRONOUNS = re.compile(r"\b(it|its|they|them|themselves|itself|whom)\b", re.IGNORECASE)
# Verbs that say nothing about what a task does.
EMPTY_VERBS = re.compile(r"^(Have|Let|Say)\b")
TURNS = re.compile(
    r"\b(is|are) had\b|\bto whom has\b|\bby chance\b|\bstands? against\b|\bhow far \w+( \w+)? is stands\b|\balso killed\b|"
    r"\b[Aa]n own\b|\bIs it [a-z' ]+(:|, )|\bwhom (PostgreSQL|the server|it) takes\b|"
    r"\b(goes|go) on\b(?! (every|each|the|a|PATH)\b)|\bwhere not given\b|\b[Nn]othing (had|is|was) to be done\b|"
    r"\bsay above\b|\b[Mm]end the\b|\b[Ll]ook (what|who|whether)\b|\ball the same\b|\b(was|is) taken back\b|"
    r"(?<!here )\bis no (number|date|member of|label|size|text|file|time such|range)\b|\bIs the [a-z]+ right\b",
)
PLAYS_AND_TASKS = ("playbooks/*.yml", "playbooks/parts/*.yml", "playbooks/tasks/*.yml", "playbooks/tiers/*.yml")
TASK_FILES = sorted(path for pattern in (*PLAYS_AND_TASKS, "roles/*/tasks/*.yml") for path in ROOT.glob(pattern))
TEXTS = ("*.md", "docs/**/*.md", "examples/*", "plugins/**/*.py")
DECLARED = ("playbooks/**/*.yml", "roles/*/tasks/*.yml", "roles/*/meta/argument_specs.yml")
# Not the page that shows the turns, and not the record of what was.
UNREAD = {ROOT / "docs/style.md", ROOT / "CHANGELOG.md"}
READ = sorted({path for pattern in (*TEXTS, *DECLARED) for path in ROOT.glob(pattern)} - UNREAD)


def names(entries: Any) -> Iterator[str]:
    """Yield the names of plays, blocks and tasks in a file's content."""
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            if isinstance(entry.get("name"), str):
                yield entry["name"].rpartition(" | ")[2]
            for section in ("tasks", "pre_tasks", "post_tasks", "handlers", "block", "rescue", "always"):
                yield from names(entry.get(section))


def unclear(name: str) -> bool:
    """Return whether a name of a task can't be understood alone."""
    return bool(PRONOUNS.search(name) or EMPTY_VERBS.search(name))


@pytest.mark.parametrize("path", TASK_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_of_tasks_are_understood_alone(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert [name for name in names(content) if unclear(name)] == []


def test_what_users_read_has_no_refused_turn() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in READ
        for match in TURNS.finditer(path.read_text(encoding="utf-8"))
    }
    assert sorted(found) == []


@pytest.mark.parametrize("name", ["Have it", "Let the cluster lead", "Delete its certificates", "Say what was made"])
def test_unclear_names_are_seen(name: str) -> None:
    assert unclear(name)


@pytest.mark.parametrize("name", ["Create the users", "Wait until the replica streams", "Limit the bandwidth"])
def test_clear_names_pass(name: str) -> None:
    assert not unclear(name)


def test_every_turn_of_the_page_is_seen() -> None:
    _before, _heading, table = (
        (ROOT / "docs/style.md").read_text(encoding="utf-8").partition("## Turns that a test refuses")
    )
    rows = [row for row in re.findall(r"^\| (.+?) \| (.+?) \|$", table, re.MULTILINE) if row[0] not in {"not", "---"}]
    assert len(rows) > 5
    assert [bad for bad, good in rows if not TURNS.search(bad) or TURNS.search(good)] == []
