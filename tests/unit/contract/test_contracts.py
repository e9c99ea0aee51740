# SPDX-License-Identifier: Apache-2.0
"""The contracts of all playbooks: complete, true to the plays, and no misspelling of a variable passes any of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight import typed
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.plugin_utils.contract import model, names, usage, values
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[3]
PLAYBOOKS = sorted((ROOT / "playbooks").glob("*.yml"))
# Where a playbook's document has another name.
DOCUMENTS = {
    "backup": "schedule",
    "promote_cluster": "standby_cluster",
    "demote_cluster": "standby_cluster",
    "events_export": "events",
    "events_import": "events",
    "akka_export": "akka",
    "akka_import": "akka",
}
NAMES = [path.stem for path in PLAYBOOKS]
CONTRACTS = {
    path.stem: model.read(path.stem, yaml.safe_load(path.read_text()))
    for path in (ROOT / "playbooks/specs").glob("*.yml")
}
ROLES = {
    path.parts[-3]: list(yaml.safe_load(path.read_text())["argument_specs"]["main"].get("options") or {})
    for path in (ROOT / "roles").glob("*/meta/argument_specs.yml")
}
ALL_OPTIONS = [
    pytest.param(name, option, id=f"{playbook}:{name}")
    for playbook, contract in sorted(CONTRACTS.items())
    for name, option in contract.options.items()
]


def imported(path: Path) -> Iterator[Path]:
    """Yield every playbook that a playbook imports, and what those import."""
    for entry in yaml.safe_load(path.read_text()):
        if "ansible.builtin.import_playbook" in entry:
            inner = (path.parent / entry["ansible.builtin.import_playbook"]).resolve()
            yield inner
            yield from imported(inner)


def plays(path: Path) -> list[dict[str, Any]]:
    """Return the plays that stand in a file itself."""
    return [entry for entry in yaml.safe_load(path.read_text()) if "hosts" in entry]


def tags_in(path: Path) -> set[str]:
    """Return the tags that a file of plays names."""
    found = re.findall(r"^\s+tags: \[(.*)\]$", path.read_text(), re.MULTILINE)
    return {tag for tags in found for tag in tags.split(", ")}


def misspellings(name: str) -> Iterator[str]:
    """Yield the name with one letter left out, doubled, or swapped with the next."""
    for index, letter in enumerate(name):
        yield name[:index] + name[index + 1 :]
        yield name[:index] + letter + name[index:]
        yield name[:index] + name[index + 1 : index + 2] + letter + name[index + 2 :]


def refused(playbook: str, *extra_vars: str, mine: tuple[str, ...] = ()) -> list[str]:
    return list(names.refusals(extra_vars, [playbook], CONTRACTS, ROLES, mine))


def test_every_playbook_has_a_contract() -> None:
    assert sorted(CONTRACTS) == NAMES


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.stem)
def test_a_playbook_begins_with_its_contract(path: Path) -> None:
    first = yaml.safe_load(path.read_text())[0]
    assert first["ansible.builtin.import_playbook"] == "parts/contract.yml"
    assert first["vars"] == {"__playbook": path.stem}


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.stem)
def test_a_contract_includes_those_of_the_playbooks_that_are_run(path: Path) -> None:
    run = {inner.stem for inner in imported(path) if inner.parent == ROOT / "playbooks"}
    assert set(CONTRACTS[path.stem].includes) == run


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.stem)
def test_plays_use_the_options_of_their_contract(path: Path) -> None:
    own = {path, *(inner for inner in imported(path) if inner.parent != ROOT / "playbooks")}
    used = {name for file in own for name in re.findall(r"__options\.(\w+)", file.read_text())}
    assert used <= set(model.whole(path.stem, CONTRACTS))


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.stem)
def test_a_contract_names_the_tags_of_its_plays(path: Path) -> None:
    files = {path, *imported(path)}
    found = {tag for file in files for tag in tags_in(file)} - {"always"}
    # Where plays of its own have no tag, --tags would leave them out and run the rest.
    whole = any("tags" not in entry for entry in plays(path))
    assert CONTRACTS[path.stem].tags == (set() if whole else found)


def test_a_tag_that_no_play_has_is_refused() -> None:
    assert list(names.unknown_tags(["patroni", "all", "always"], ["update"], CONTRACTS)) == []
    assert list(names.unknown_tags(["mine"], [], CONTRACTS)) == []
    (said,) = names.unknown_tags(["patrni"], ["update"], CONTRACTS)
    assert said == "--tags patrni is not known: allowed is balancer, etcd, patroni, pgbackrest, valkey"


def test_a_playbook_without_its_hosts_is_refused() -> None:
    groups = {"valkey": ["a"], "backup": ["b"]}
    needs = CONTRACTS["restore_valkey"]
    assert list(names.missing_hosts(needs, ["a", "b"], groups)) == []
    assert list(names.missing_hosts(needs, ["a"], groups)) == [
        "there is no host in the group backup within --limit, so restore_valkey.yml would do nothing"
    ]
    assert list(names.missing_hosts(CONTRACTS["backup"], ["a"], {"valkey": ["a"]})) == [
        "there is no host in the group backup or postgresql, so backup.yml would do nothing"
    ]


def test_a_tag_without_its_hosts_is_refused() -> None:
    groups = {"etcd": ["a"], "valkey": ["b"], "balancer": []}
    assert list(names.idle_tags(["etcd", "host", "all"], ["a"], groups)) == []
    assert list(names.idle_tags(["haproxy", "etcd", "valkey"], ["a"], groups)) == [
        "there is no host in the group balancer, so --tags haproxy would do nothing",
        "there is no host in the group valkey within --limit, so --tags valkey would do nothing",
    ]


def test_every_tag_of_a_tier_has_its_hosts_looked_at() -> None:
    tags = {tag for contract in CONTRACTS.values() for tag in contract.tags}
    idle = {tag for tag in tags if list(names.idle_tags([tag], [], {}))}
    assert tags - idle == {"host", "tls"}


def test_whatever_changes_or_judges_a_cluster_needs_one() -> None:
    # Those that refuse in words of their own: a name, a confirmation, or preflight's rules.
    own = {"adopt", "destroy", "export_inventory", "kubernetes", "preflight", "remove_node", "replace_node", "site"}
    assert {name for name, contract in CONTRACTS.items() if not contract.needs} == own


def test_every_group_that_is_needed_is_one_of_ours() -> None:
    groups = {group for contract in CONTRACTS.values() for kind in contract.needs for group in kind}
    assert groups <= {"etcd", "postgresql", "balancer", "valkey", "backup"}


def test_every_option_is_used() -> None:
    files = [*(ROOT / "playbooks").rglob("*.yml"), *(ROOT / "roles").rglob("tasks/*.yml")]
    used = {name for file in files for name in re.findall(r"__options\.(\w+)", file.read_text())}
    assert {name for contract in CONTRACTS.values() for name in contract.options} <= used


@pytest.mark.parametrize(
    "path", sorted((ROOT / "playbooks").rglob("*.yml")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_defaults_stand_in_the_contract_alone(path: Path) -> None:
    # A pattern of hosts is evaluated before any host has a fact.
    lines = [line for line in path.read_text().splitlines() if not re.match(r"\s*hosts:", line)]
    every = "|".join(sorted({name for contract in CONTRACTS.values() for name in contract.options}))
    assert [line for line in lines if re.search(rf"\b({every}) \| default\(", line)] == []


@pytest.mark.parametrize(("name", "option"), ALL_OPTIONS)
def test_options_are_complete(name: str, option: dict[str, Any]) -> None:
    assert option["description"].endswith(".")
    assert option.get("default") is None or values.cast(name, option["default"], option) == option["default"]
    assert list(typed.faults(name, option.get("default"), option)) == []


def test_an_option_of_several_playbooks_is_one_thing() -> None:
    seen: dict[str, Any] = {}
    for contract in CONTRACTS.values():
        for name, option in contract.options.items():
            assert seen.setdefault(name, option)["type"] == option["type"], name


@pytest.mark.parametrize("playbook", NAMES)
def test_its_own_variables_pass(playbook: str) -> None:
    known = [*model.whole(playbook, CONTRACTS), "help", "patroni_timing", "ansible_user", "deployed_by", "env"]
    assert refused(playbook, *known) == []


@pytest.mark.parametrize("playbook", NAMES)
def test_no_misspelling_of_any_variable_passes(playbook: str) -> None:
    every = {name for contract in CONTRACTS.values() for name in contract.options}
    roles = {name for declared in ROLES.values() for name in declared}
    own = {wrong for name in CONTRACTS[playbook].options for wrong in misspellings(name)}
    others = {name.replace("_", letter, 1) for name in every for letter in ("", "-")}
    for wrong in (own | others) - every - roles:
        assert len(refused(playbook, wrong)) == 1, wrong


@pytest.mark.parametrize("playbook", NAMES)
def test_a_misspelt_variable_of_a_role_is_refused_with_the_nearest(playbook: str) -> None:
    (said,) = refused(playbook, "patroni_timming")
    assert "the nearest name is patroni_timing" in said


@pytest.mark.parametrize(("old", "new"), [pair for c in CONTRACTS.values() for pair in c.renamed.items()])
def test_an_old_name_answers_with_the_new_one(old: str, new: str) -> None:
    assert refused("status", old) == [f"{old} is called {new} now: use that name"]
    assert any(new in contract.options for contract in CONTRACTS.values())


def test_a_variable_of_another_playbook_is_refused() -> None:
    assert refused("restore_valkey", "restore_tables") == [
        "restore_tables belongs to restore_logical.yml and has no meaning here: leave it out"
    ]


def test_names_that_the_operator_lists_pass() -> None:
    assert refused("update", "update_window", mine=("update_window",)) == []
    assert len(refused("update", "update_window")) == 1


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ({"type": "bool"}, "false", False),
        ({"type": "bool"}, "yes", True),
        ({"type": "int"}, "15", 15),
        ({"type": "list", "elements": "str"}, "a,b", ["a", "b"]),
        ({"type": "list", "elements": "str"}, "[a, b]", ["a", "b"]),
        ({"type": "list", "elements": "dict", "options": {"q": {"type": "str"}}}, '[{"q": "1"}]', [{"q": "1"}]),
        ({"type": "str"}, 17, "17"),
    ],
)
def test_text_gets_its_type(kind: dict[str, Any], text: Any, value: Any) -> None:
    assert values.cast("x", text, kind) == value


@pytest.mark.parametrize(
    ("kind", "text", "allowed"),
    [
        ({"type": "bool"}, "maybe", "true or false"),
        ({"type": "int"}, "1.5", "a whole number"),
        ({"type": "str", "choices": ["full", "diff"]}, "fll", "text, one of full, diff"),
        ({"type": "list", "elements": "str", "choices": ["a"]}, "a,b", "a list of names, of a"),
        (
            {"type": "list", "elements": "dict", "options": {"q": {"type": "str"}}},
            "[{p: 1}]",
            "a list of mappings with q",
        ),
    ],
)
def test_a_value_that_is_not_allowed_is_refused(kind: dict[str, Any], text: Any, allowed: str) -> None:
    with pytest.raises(Refusal, match=f"^x is {re.escape(repr(text))}: allowed is {allowed}$"):
        values.cast("x", text, kind)


@given(st.integers())
def test_every_number_comes_out_of_its_text(number: int) -> None:
    assert values.cast("x", str(number), {"type": "int"}) == number


def test_a_run_has_one_value() -> None:
    assert values.one("x", {"a": 1, "b": 1}) == 1
    with pytest.raises(Refusal, match="x is 1 on a, 2 on c: allowed is one value for all hosts"):
        values.one("x", {"a": 1, "b": 1, "c": 2})


@pytest.mark.parametrize("playbook", NAMES)
def test_help_names_every_variable_and_its_default(playbook: str) -> None:
    options = model.whole(playbook, CONTRACTS)
    text = usage.render(CONTRACTS[playbook], options)
    assert all(f"  {name}: " in text for name in options)
    assert text.startswith(f"{playbook}.yml: ")


def test_the_document_of_variables_says_what_the_contracts_say() -> None:
    text = (ROOT / "docs/playbook_variables.md").read_text()
    sections = [usage.table(CONTRACTS[playbook]) for playbook in sorted(CONTRACTS)]
    assert text.partition("\n## ")[2] == "\n\n".join(sections).removeprefix("## ") + "\n"


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_tables_of_documents_give_the_defaults_of_the_contract(path: Path) -> None:
    every = {name: option for contract in CONTRACTS.values() for name, option in contract.options.items()}
    old = {name for contract in CONTRACTS.values() for name in contract.renamed}
    text = path.read_text()
    assert [name for name in old if re.search(rf"\b{name}\b", text)] == []
    tables = re.findall(r"^\| variable[^|\n]*\| default \|[^\n]*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = [row for table in tables for row in re.findall(r"^\| `(\w+)` \| `?([\w.]+)`? \|", table, re.MULTILINE)]
    for name, default in (row for row in rows if row[0] in every):
        expected = every[name].get("default")
        assert (default in {"none", "chosen"} and not expected) or values.cast(
            name, default, every[name]
        ) == expected, name


@pytest.mark.parametrize("playbook", [name for name in NAMES if CONTRACTS[name].options])
def test_the_document_of_a_playbook_names_its_variables(playbook: str) -> None:
    text = (ROOT / f"docs/{DOCUMENTS.get(playbook, playbook)}.md").read_text()
    assert [name for name in CONTRACTS[playbook].options if name not in text] == []
