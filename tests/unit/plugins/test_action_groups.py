"""An action group promises options that all of its modules have: those of the documentation fragment of its name."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
GROUPS = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())["action_groups"]
MODULES = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py"))


def documentation(module: str) -> dict[str, Any]:
    tree = ast.parse((ROOT / f"plugins/modules/{module}.py").read_text())
    values = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    return yaml.safe_load(ast.literal_eval(values["DOCUMENTATION"]))


def fragments(module: str) -> list[str]:
    found = documentation(module).get("extends_documentation_fragment", [])
    return [found] if isinstance(found, str) else found


def options_of_fragment(name: str) -> dict[str, Any]:
    module = importlib.import_module(f"ansible_collections.holdfast.persistence.plugins.doc_fragments.{name}")
    return yaml.safe_load(module.ModuleDocFragment.DOCUMENTATION)["options"]


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_holds_the_modules_of_its_fragment(group: str) -> None:
    assert GROUPS[group] == [module for module in MODULES if f"holdfast.persistence.{group}" in fragments(module)]


@pytest.mark.parametrize("group", GROUPS)
def test_no_module_gives_an_option_of_its_group_another_meaning(group: str) -> None:
    shared = options_of_fragment(group)
    assert shared
    own = {module: set(documentation(module).get("options") or {}) & set(shared) for module in GROUPS[group]}
    assert own == {module: set() for module in GROUPS[group]}


def defaults(node: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return the module_defaults in a playbook or a file of tasks."""
    if isinstance(node, list):
        return [pair for item in node for pair in defaults(item)]
    if not isinstance(node, dict):
        return []
    return [
        *(node.get("module_defaults") or {}).items(),
        *(pair for value in node.values() for pair in defaults(value)),
    ]


def test_defaults_are_options_of_their_group() -> None:
    paths = [*ROOT.glob("roles/*/tasks/**/*.yml"), *ROOT.glob("playbooks/**/*.yml")]
    used = [
        pair for path in paths if "group/" in path.read_text() for pair in defaults(yaml.safe_load(path.read_text()))
    ]
    groups = [(name, options) for name, options in used if name.startswith("group/")]
    assert groups
    for name, options in groups:
        assert set(options) <= set(options_of_fragment(name.removeprefix("group/holdfast.persistence.")))
