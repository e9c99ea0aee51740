# SPDX-License-Identifier: Apache-2.0
"""What `ansible-doc` shows of a module: two examples that its options allow, and what it returns as it really looks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
MODULES = sorted((ROOT / "plugins/modules").glob("*.py"))
PREFIX = "holdfast.persistence."
# Required options that the action plugin of the module's name fills in.
FILLED = {"run_lock": {"id", "who"}}
TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "list": list,
    "dict": dict,
    "path": str,
}


def documentation(path: Path, name: str) -> Any:
    """Return DOCUMENTATION, EXAMPLES or RETURN of a module."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return yaml.safe_load(ast.literal_eval(node.value))
    raise AssertionError(f"{path.name} has no {name}")


def options(module: str) -> dict[str, Any]:
    """Return the options of a module of this collection, those of its fragments too."""
    described = documentation(ROOT / f"plugins/modules/{module}.py", "DOCUMENTATION")
    found = dict(described.get("options") or {})
    for fragment in described.get("extends_documentation_fragment") or []:
        name = fragment.removeprefix(PREFIX).partition(".")[0]
        tree = ast.parse((ROOT / f"plugins/doc_fragments/{name}.py").read_text(encoding="utf-8"))
        texts = [
            ast.literal_eval(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        ]
        for text in texts:
            found.update(yaml.safe_load(text).get("options") or {})
    return found


def calls() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield (module that shows it, name of the task, module that it calls, options) of every example."""
    for path in MODULES:
        for task in documentation(path, "EXAMPLES"):
            for key, arguments in task.items():
                if key.startswith(PREFIX):
                    yield path.stem, task["name"], key.removeprefix(PREFIX), arguments or {}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_shows_two_examples_with_names(path: Path) -> None:
    examples = documentation(path, "EXAMPLES")
    names = [task.get("name", "") for task in examples]
    assert len(names) >= 2
    assert all(names)
    assert len(set(names)) == len(names)
    assert any(PREFIX + path.stem in task for task in examples)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_shows_what_each_value_looks_like(path: Path) -> None:
    returned = documentation(path, "RETURN")
    assert [name for name, value in returned.items() if "sample" not in value] == []
    wrong = {
        name: value["sample"]
        for name, value in returned.items()
        if not isinstance(value["sample"], TYPES[value["type"]])
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("task", "module", "arguments"), [pytest.param(*call[1:], id=f"{call[0]}: {call[1]}") for call in calls()]
)
def test_an_example_gives_options_that_there_are(task: str, module: str, arguments: dict[str, Any]) -> None:
    known = options(module)
    assert sorted(arguments.keys() - known.keys()) == [], task
    given = arguments.keys() | FILLED.get(module, set())
    assert [name for name, option in known.items() if option.get("required") and name not in given] == []
    for name, value in arguments.items():
        allowed = known[name].get("choices")
        assert allowed is None or isinstance(value, list) or value in allowed or "{{" in str(value)
