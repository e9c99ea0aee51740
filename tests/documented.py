# SPDX-License-Identifier: Apache-2.0
"""The commands that documents show, each as an operator would type it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
COLLECTION = "holdfast.persistence."
_PROGRAM = "ansible-playbook "
_WITH_ARGUMENT = {"-e", "--extra-vars", "--tags", "--limit", "-i", "--inventory"}
# `update.yml --tags etcd` in a sentence.
_SHORT = re.compile(r"(?<=`)([a-z_]+)\.yml( -[^`]+)(?=`)")


@dataclass(frozen=True)
class Command:
    """A run of a playbook of this collection.

    place: document and line. playbook: its name. variables: extra variables as text or as they are in JSON, by name.
    tags: of --tags. options: all words after the playbook's name and before it, but inventories.
    """

    place: str
    playbook: str
    variables: dict[str, object]
    tags: tuple[str, ...]
    options: tuple[str, ...]


def documents() -> list[Path]:
    """Return every document in which commands stand."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands() -> list[Command]:
    """Return the commands of all documents, in order."""
    return [command for path in documents() for command in _of(path)]


def _of(path: Path) -> Iterator[Command]:
    lines = iter(enumerate(path.read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        whole = line
        while whole.endswith("\\"):
            whole = whole[:-1] + next(lines, (0, ""))[1].strip()
        place = f"{path.relative_to(ROOT)}:{number}"
        if _PROGRAM in whole:
            for text in re.findall(r"`[^`]*`", whole) if "`" in whole else [whole]:
                _before, program, rest = text.strip("`").partition(_PROGRAM)
                if program:
                    yield _parse(place, rest)
        for name, rest in _SHORT.findall(whole):
            if (ROOT / "playbooks" / f"{name}.yml").exists():
                yield _parse(place, f"{COLLECTION}{name} {rest}")


def _parse(place: str, text: str) -> Command:
    words = shlex.split(re.split(r"\s\|\s", text)[0], comments=True)
    playbook = ""
    variables: dict[str, object] = {}
    tags: list[str] = []
    options: list[str] = []
    waiting = iter(words)
    for word in waiting:
        if word in _WITH_ARGUMENT:
            value = next(waiting)
            if word in ("-e", "--extra-vars"):
                variables.update(_variables(value))
            elif word == "--tags":
                tags += value.split(",")
            if word not in ("-i", "--inventory"):
                options += [word, value]
        elif word.startswith("-"):
            options.append(word)
        else:
            assert not playbook, f"{place}: two playbooks, {playbook} and {word}"
            playbook = Path(word).stem if word.endswith(".yml") else word.removeprefix(COLLECTION)
    return Command(place, playbook, variables, tuple(tags), tuple(options))


def _variables(text: str) -> Mapping[str, object]:
    if text.startswith("{"):
        found: Mapping[str, object] = yaml.safe_load(text)
        return found
    return dict(pair.split("=", 1) for pair in shlex.split(text))
