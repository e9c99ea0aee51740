# SPDX-License-Identifier: Apache-2.0
"""The shape of the code, held: who imports whom, how long classes are, what purity means, which exceptions there are."""

from __future__ import annotations

import ast
import re

import pytest
import rooms

FILES = rooms.sources()
PROGRAMS = rooms.programs()
LONGEST_CLASS = 150


def test_no_import_leads_up() -> None:
    assert rooms.upward(FILES) == []


def test_module_utils_imports_nothing_beside_itself() -> None:
    outside = {
        pair for pair in rooms.arrows(FILES) if pair[0].startswith(rooms.UTILS) and not pair[1].startswith(rooms.UTILS)
    }
    assert outside == set()


def test_no_class_is_too_long() -> None:
    lengths = {
        f"{s.name}.{node.name}": rooms.lines_of(node) for s in [*FILES.values(), *PROGRAMS] for node in s.classes
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_CLASS} == {}


def test_every_room_says_in_a_line_what_is_in_it() -> None:
    folders = {source.path.parent for source in FILES.values() if source.room.count("/")}
    silent = [
        str(folder) for folder in folders if not ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    ]
    assert silent == []


@pytest.mark.parametrize(
    "source", [source for source in FILES.values() if source.promise], ids=lambda source: source.name
)
def test_what_promises_no_io_imports_none(source: rooms.Source) -> None:
    assert source.reaches() == set()


def test_what_can_promise_does() -> None:
    assert rooms.silent(FILES) == []


def test_purity_has_one_wording() -> None:
    other = re.compile(r"\bpure\b|\bno I/O\b|No I/O[^.]", re.IGNORECASE)
    docs = {name: ast.get_docstring(source.tree) or "" for name, source in FILES.items()}
    assert [name for name, text in docs.items() if other.search(text.replace(rooms.PURE, ""))] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import os", {"os"}),
        ("import os.path", set()),
        ("from os import path", set()),
        ("from urllib import request", {"urllib.request"}),
        ("from urllib.parse import quote", set()),
        ("from ansible.module_utils.basic import AnsibleModule", {"ansible.module_utils.basic.AnsibleModule"}),
        ("def f():\n    import socket", {"socket"}),
        ("datetime.datetime.now()", {"now()"}),
        ("open('x')", {"open()"}),
    ],
)
def test_reaching_is_seen(text: str, found: set[str], tmp_path) -> None:
    path = tmp_path / "one.py"
    path.write_text(text)
    assert rooms.Source(path, "module_utils/one").reaches() == found


def test_an_arrow_up_and_a_circle_are_seen(tmp_path) -> None:
    def write(name: str, *imports: str) -> None:
        path = tmp_path / "plugins" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"from {rooms.PACKAGE}{each} import name\n" for each in imports))

    write("module_utils/low/one")
    write("module_utils/high/two", "module_utils.low.one")
    write("module_utils/high/three", "module_utils.low.one")
    assert rooms.upward(rooms.sources(tmp_path)) == []
    write("module_utils/low/one", "module_utils.high.two")
    assert rooms.upward(rooms.sources(tmp_path)) == [("module_utils/low/one", "module_utils/high/two")]


def test_every_exception_carries_what_somebody_uses() -> None:
    """A class of its own is worth it where its attributes, or those that it inherits, are read somewhere."""
    found = rooms.exceptions([*FILES.values(), *PROGRAMS])
    attributes = {
        node.name: {
            part.attr
            for part in ast.walk(node)
            if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store) and ast.unparse(part.value) == "self"
        }
        for _source, node in found
    }
    inherited = {node.name: [ast.unparse(base).rpartition(".")[2] for base in node.bases] for _source, node in found}

    def all_of(name: str) -> set[str]:
        return attributes.get(name, set()).union(*(all_of(base) for base in inherited.get(name, [])))

    read = {
        part.attr
        for source in [*FILES.values(), *PROGRAMS]
        for part in ast.walk(source.tree)
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Load)
    }
    assert {name: sorted(all_of(name) - read) for name in attributes if not all_of(name) or all_of(name) - read} == {}
