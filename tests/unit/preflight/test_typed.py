# SPDX-License-Identifier: Apache-2.0
"""Values as text: what ansible-core's own validation lets through to a role, and what the preflight says to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight import typed

ROOT = Path(__file__).resolve().parents[3]
TEXTS: dict[str, tuple[str, Any]] = {
    "bool": ("false", False),
    "int": ("4096", 4096),
    "float": ("0.5", 0.5),
    "list": ("a,b", []),
    "dict": ("a=b", {}),
}
OPTIONS = [
    pytest.param(name, option, id=name)
    for path in sorted((ROOT / "roles").glob("*/meta/argument_specs.yml"))
    for name, option in (yaml.safe_load(path.read_text())["argument_specs"]["main"].get("options") or {}).items()
    if option["type"] in TEXTS and not name.startswith("preflight_")
]


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_text_in_place_of_another_type_is_refused(name: str, option: dict[str, Any]) -> None:
    text, value = TEXTS[option["type"]]
    (fault,) = typed.faults(name, text, option)
    assert fault.place == name
    assert f"-e '{{\"{name}\": ...}}'" in fault.remedy
    assert list(typed.faults(name, value, option)) == []


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_its_default_is_no_text(name: str, option: dict[str, Any]) -> None:
    default = option.get("default")
    assert (isinstance(default, str) and "{{" in default) or list(typed.faults(name, default, option)) == []


@pytest.mark.parametrize("kind", ["bool", "int", "float", "list"])
def test_core_takes_text_and_does_not_hand_the_value_on(kind: str) -> None:
    """Why the rule is there: validate_argument_spec looks at a copy, and the role reads what was given."""
    given = {"x": TEXTS[kind][0]}
    result = ArgumentSpecValidator({"x": {"type": kind}}).validate(given)
    assert result.error_messages == []
    assert isinstance(given["x"], str)
    assert not isinstance(result.validated_parameters["x"], str)


@pytest.mark.parametrize(
    ("value", "option", "places"),
    [
        (1, {"type": "bool"}, ["x"]),
        (True, {"type": "int"}, ["x"]),
        (1, {"type": "float"}, []),
        (None, {"type": "int"}, []),
        (17, {"type": "str"}, []),
        ("any", {"type": "raw"}, []),
        (["1", 2], {"type": "list", "elements": "int"}, ["x[0]"]),
        ([{"port": "7001"}], {"type": "list", "elements": "dict", "options": {"port": {"type": "int"}}}, ["x[0].port"]),
        (
            {"a": {"b": "no"}},
            {"type": "dict", "options": {"a": {"type": "dict", "options": {"b": {"type": "bool"}}}}},
            ["x.a.b"],
        ),
    ],
)
def test_parts_are_looked_at(value: Any, option: dict[str, Any], places: list[str]) -> None:
    assert [fault.place for fault in typed.faults("x", value, option)] == places


def test_the_preflights_own_are_cast_by_its_action() -> None:
    assert list(typed.faults("preflight_details", "true", {"type": "bool"})) == []


def test_what_may_be_a_secret_is_not_shown() -> None:
    (fault,) = typed.faults("x", "hunter2hunter2", {"type": "int"}, secret=True)
    assert "hunter2" not in str(fault)
