# SPDX-License-Identifier: Apache-2.0
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
CONNECTIONS = {
    name: value
    for name, value in yaml.safe_load((ROOT / "roles/cluster/vars/main/connections.yml").read_text()).items()
    if name.endswith("_connection")
}
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


def used() -> list[tuple[str, Any]]:
    """Return the name of a group and its defaults, wherever playbooks and roles use one."""
    paths = [*ROOT.glob("roles/*/tasks/**/*.yml"), *ROOT.glob("playbooks/**/*.yml")]
    found = [
        pair for path in paths if "group/" in path.read_text() for pair in defaults(yaml.safe_load(path.read_text()))
    ]
    return [(name.rpartition(".")[2], options) for name, options in found if name.startswith("group/")]


def test_defaults_of_a_group_are_the_connection_of_its_name() -> None:
    assert used()
    strange = [(group, options) for group, options in used() if f"cluster_{group}_connection" not in options]
    assert strange == []


@pytest.mark.parametrize("name", CONNECTIONS)
def test_connections_are_options_of_their_group(name: str) -> None:
    group = name.removeprefix("cluster_").removesuffix("_connection")
    assert set(CONNECTIONS[name]) <= set(options_of_fragment(group))


def connection_options_of(task: dict[str, Any]) -> dict[str, set[str]]:
    """Return what a task gives the modules of groups although their connection has the same."""
    modules = {module: group for group in GROUPS for module in GROUPS[group]}
    called = {key.rpartition(".")[2]: value for key, value in task.items() if key.startswith("holdfast.persistence.")}
    return {
        name: set(value) & {"ca_cert", "client_cert", "username", "password"}
        for name, value in called.items()
        if name in modules and isinstance(value, dict)
    }


def tasks(node: Any) -> list[dict[str, Any]]:
    """Return every mapping below a node of YAML."""
    if isinstance(node, list):
        return [task for item in node for task in tasks(item)]
    if not isinstance(node, dict):
        return []
    return [node, *(task for value in node.values() for task in tasks(value))]


def test_no_task_repeats_the_connection_of_its_group() -> None:
    paths = [*ROOT.glob("roles/*/tasks/**/*.yml"), *ROOT.glob("playbooks/**/*.yml")]
    repeated = {
        f"{path.relative_to(ROOT)}: {name}: {', '.join(sorted(options))}"
        for path in paths
        for task in tasks(yaml.safe_load(path.read_text()))
        for name, options in connection_options_of(task).items()
        if options
    }
    assert sorted(repeated) == []
