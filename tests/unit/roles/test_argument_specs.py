# SPDX-License-Identifier: Apache-2.0
"""Every role's argument specification is the truth: variables, order and values as in the defaults."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from .role_files import (
    ROLES,
    ROOT,
    belongs_to_a_role,
    bound_in,
    declared,
    defaults,
    load,
    loaded_names,
    names_in,
    role_bindings,
    role_sources,
    specification,
    uses,
    yaml_files,
)

TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "path": (str,),
    "raw": (object,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
}
# Words that tell what a number counts or is measured in.
UNITS = re.compile(
    r"\b(milliseconds?|seconds?|minutes?|hours?|days?|bytes?|[KMG]i?B|kilobytes|megabytes?|gigabytes?|percent|bits?|"
    r"numbers?|many|connections?|replicas?|fraction|part|ports?|version|share|slots?|times|database|mode|priority|identifier|id|bandwidth|lines?)\b",
    re.IGNORECASE,
)


def flat(options: dict[str, dict[str, Any]], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the options with those nested in them, by dotted name."""
    for name, option in options.items():
        yield prefix + name, option
        yield from flat(option.get("options") or {}, f"{prefix}{name}.")


def typed(value: Any) -> Any:
    """Return the value in a form that compares unequal where a type differs: 1, True, 1.0 and "1" are four things."""
    if isinstance(value, dict):
        return "dict", [(key, typed(item)) for key, item in value.items()]
    if isinstance(value, list):
        return "list", [typed(item) for item in value]
    return type(value).__name__, value


ALL_OPTIONS = [
    pytest.param(option, id=f"{role}:{name}") for role in ROLES for name, option in flat(specification(role))
]


def is_computed(option: dict[str, Any], default: Any) -> bool:
    """Return whether a default is an expression for a number or for mappings, which ansible-doc does not take as a default."""
    kinds = {option["type"], option.get("elements")}
    return (
        bool(kinds & {"int", "float", "bool"} or option.get("elements") == "dict")
        and isinstance(default, str)
        and "{{" in default
    )


@pytest.mark.parametrize("role", ROLES)
def test_specification_and_defaults_agree(role: str) -> None:
    options, given = specification(role), defaults(role)
    assert [name for name, option in options.items() if not option.get("required")] == list(given), (
        "names or their order"
    )
    for name, value in given.items():
        if is_computed(options[name], value):
            assert "default" not in options[name], name
            assert "Computed if not given, " in text_of(options[name]), f"{name}: say how"
        else:
            assert typed(options[name]["default"]) == typed(value), name


def text_of(option: dict[str, Any]) -> str:
    """Return the description as one text."""
    description = option.get("description") or []
    return description if isinstance(description, str) else " ".join(description)


@pytest.mark.parametrize("role", ROLES)
def test_variables_carry_the_prefix_of_their_role(role: str) -> None:
    assert [name for name in specification(role) if not name.startswith(f"{role}_")] == []


@pytest.mark.parametrize("option", ALL_OPTIONS)
def test_option_is_complete(option: dict[str, Any]) -> None:
    text = text_of(option)
    assert text.strip(), "no description"
    assert option.get("type") in TYPES, "no type"
    if option["type"] == "list":
        assert option.get("elements") in TYPES, "a list needs the type of its elements"
    if option["type"] in {"int", "float"}:
        assert UNITS.search(text), f"a number needs a unit in its description: {text}"


@pytest.mark.parametrize("option", ALL_OPTIONS)
def test_default_has_the_declared_type_and_is_a_choice(option: dict[str, Any]) -> None:
    if "default" not in option or (isinstance(option["default"], str) and "{{" in option["default"]):
        return
    default = option["default"]
    assert isinstance(default, TYPES[option["type"]])
    assert isinstance(default, bool) == (option["type"] == "bool") or option["type"] == "raw"
    if "choices" in option:
        assert default in option["choices"]


@pytest.mark.parametrize("role", ROLES)
def test_roles_use_only_declared_variables(role: str) -> None:
    known = declared() | role_bindings(role)
    undeclared = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in role_sources(role)
        for name in uses(path)
        if belongs_to_a_role(name) and name not in known
    }
    assert sorted(undeclared) == []


def test_playbooks_use_only_declared_variables() -> None:
    undeclared = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in yaml_files(ROOT / "playbooks")
        for name in uses(path) - set(bound_in(load(path)))
        if belongs_to_a_role(name) and name not in declared()
    }
    assert sorted(undeclared) == []


@pytest.mark.parametrize("role", ROLES)
def test_every_option_is_used(role: str) -> None:
    sources = [path for other in ROLES for path in role_sources(other)] + yaml_files(ROOT / "playbooks")
    used = {name for path in sources for name in uses(path)}
    # The preflight looks variables up by name.
    used |= {word for path in (ROOT / "plugins").rglob("*.py") for word in re.findall(r'"(\w+)"', path.read_text())}
    assert sorted(set(specification(role)) - used) == []


@pytest.mark.parametrize("role", ROLES)
def test_role_has_its_parts(role: str) -> None:
    folder = ROOT / "roles" / role
    entry = load(folder / "meta/argument_specs.yml")["argument_specs"]["main"]
    assert entry["short_description"]
    assert load(folder / "meta/main.yml")["galaxy_info"]["role_name"] == role
    assert (folder / "tasks/main.yml").is_file()


def test_inventories_set_only_declared_variables() -> None:
    unknown = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in yaml_files(*(ROOT / "inventories").glob("*/*_vars"))
        for name in load(path)
        if belongs_to_a_role(name) and name not in declared()
    }
    assert sorted(unknown) == []


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("{{ etcd_a | default(etcd_b.c['etcd_d'][etcd_e]) }}", {"etcd_a", "etcd_b", "etcd_e"}),
        ("{% for etcd_x in etcd_list %}{{ etcd_x }}{% endfor %}", {"etcd_list"}),
        ("{% if etcd_a is truthy and not etcd_b %}{% endif %}", {"etcd_a", "etcd_b"}),
        ("{% set etcd_a = etcd_b %}{{ etcd_a }} etcd_text", {"etcd_b"}),
        ("{{ lookup('x', etcd_name, dir=etcd_dir) }}", {"lookup", "etcd_name", "etcd_dir"}),
    ],
)
def test_reader_finds_the_names_a_template_reads(source: str, names: set[str]) -> None:
    assert loaded_names(source) == names


def test_reader_finds_the_names_tasks_read_and_bind() -> None:
    tasks = [
        {"ansible.builtin.command": {"argv": ["{{ etcd_program }}"]}, "register": "__etcd_out", "when": "etcd_enabled"},
        {"ansible.builtin.assert": {"that": ["etcd_count | int > 2"]}, "vars": {"__etcd_x": "{{ etcd_y }}"}},
        {"loop": "{{ etcd_list }}", "loop_control": {"loop_var": "__etcd_item"}, "name": "etcd_words stay words"},
    ]
    assert set(names_in(tasks)) == {"etcd_program", "etcd_enabled", "etcd_count", "etcd_y", "etcd_list"}
    assert set(bound_in(tasks)) == {"__etcd_out", "__etcd_x", "__etcd_item"}


@pytest.mark.parametrize(("left", "right"), [(1, True), (1, "1"), (1, 1.0), ([], {}), (["1"], [1]), ("", None)])
def test_comparison_tells_types_apart(left: Any, right: Any) -> None:
    assert typed(left) != typed(right)
