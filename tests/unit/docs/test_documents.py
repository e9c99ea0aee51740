# SPDX-License-Identifier: Apache-2.0
"""The documents name only what exists, and all of what they promise to list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import rooms
import yaml
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.judge import RULE_NAMES

ROOT = Path(__file__).resolve().parents[3]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMED = [pytest.param(path, id=str(path.relative_to(ROOT))) for path in DOCUMENTS if path.name != "CHANGELOG.md"]


def anchors(path: Path) -> set[str]:
    """Return what a link into a document may point to: its headings as GitHub names them, and explicit names."""
    text = path.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a name="([^"]+)">', text))


@pytest.mark.parametrize("document", NAMED)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        if re.match(r"https?://", target):
            continue
        path, _hash, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("document", NAMED)
def test_make_targets_and_playbooks_exist(document: Path) -> None:
    makefiles = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "Makefile", ROOT / "tools/test.mk"))
    targets = set(re.findall(r"^([a-z-]+):", makefiles, re.MULTILINE))
    playbooks = {path.stem for path in (ROOT / "playbooks").glob("*.yml")}
    others = {path.stem for folder in ("roles", "plugins/modules") for path in (ROOT / folder).iterdir()}
    text = document.read_text(encoding="utf-8")
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)\b(?=[`\s#])", code(text))) <= targets
    assert set(re.findall(r"holdfast\.persistence\.([a-z_]+)", text)) <= playbooks | others
    assert set(re.findall(r"`(?:playbooks/)?([a-z_]+)\.yml`", text)) <= playbooks


def code(text: str) -> str:
    """Return what a document shows as commands: code blocks and code spans."""
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))


def test_every_document_is_in_the_index_once_and_in_a_group() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[[^]]+\]\((\w+\.md|runbooks/index\.md)\)", index, re.MULTILINE)
    assert sorted(listed) == sorted(
        [*(path.name for path in (ROOT / "docs").glob("*.md") if path.name != "index.md"), "runbooks/index.md"]
    )
    groups = re.findall(r"^## (\w+):", index, re.MULTILINE)
    assert groups == ["Start", "Operate", "Recover", "Understand", "Develop"]
    before, _heading, _rest = index.partition("## Start")
    assert "| [" not in before


def test_the_map_of_the_code_is_true() -> None:
    text = (ROOT / "docs/development.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `[\w/]+/` \|.*$", text, re.MULTILINE)
    shared = [row for row in rows if re.match(r"\| `plugins/(module|plugin)_utils/", row)]
    # `python tests/rooms.py` prints them.
    assert shared == rooms.room_table(rooms.sources())
    roles = [row for row in rows if row.startswith("| `roles/")]
    assert roles == [f"| `roles/{role}/` | {short_description(role)} |" for role in ROLES]
    others = {row.split("`")[1] for row in rows} - {row.split("`")[1] for row in [*shared, *roles]}
    assert [folder for folder in others if not (ROOT / folder).is_dir()] == []
    parents = {"playbooks/", "plugins/", "tests/"}
    tree = {f"{parent}{path.name}/" for parent in parents for path in (ROOT / parent).iterdir() if is_room(path)}
    assert tree - {"plugins/module_utils/", "plugins/plugin_utils/"} == {
        folder for folder in others if any(folder.startswith(parent) and folder != parent for parent in parents)
    }


def is_room(path: Path) -> bool:
    """Return whether a path is a folder with files of the collection's own, not one that Python or a test run made."""
    return (
        any(file.is_file() and "__pycache__" not in file.parts for file in path.rglob("*")) if path.is_dir() else False
    )


def short_description(role: str) -> str:
    """Return how a role is described in one line."""
    specs = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text(encoding="utf-8"))
    return str(specs["argument_specs"]["main"]["short_description"])


def test_every_runbook_is_in_its_index() -> None:
    folder = ROOT / "docs/runbooks"
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (folder / "index.md").read_text(encoding="utf-8")))
    assert listed == {path.name for path in folder.glob("*.md")} - {"index.md"}


def test_every_critical_rule_of_the_check_has_a_runbook() -> None:
    _intro, _heading, told = (ROOT / "docs/check.md").read_text(encoding="utf-8").partition("## Rules of")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| [^|]*critical", told, re.MULTILINE)
    critical = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    for source in ("etcd/cluster.py", "valkey/rules.py"):
        text = (ROOT / "plugins/module_utils" / source).read_text(encoding="utf-8")
        critical |= set(re.findall(r'Finding\(\s*"(\w+)",\s*"critical"', text))
    index = (ROOT / "docs/runbooks/index.md").read_text(encoding="utf-8")
    assert critical - set(re.findall(r"`(\w+)`", index)) == set()


def test_every_rule_of_the_preflight_is_explained() -> None:
    text = (ROOT / "docs/preflight.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert {name for name in explained if not name.startswith("preflight_")} == set(RULE_NAMES)


@pytest.mark.parametrize("document", NAMED)
def test_variables_in_documents_exist(document: Path) -> None:
    sources = [
        path for folder in ("roles", "plugins", "playbooks") for path in (ROOT / folder).rglob("*") if path.is_file()
    ]
    known = {word for path in sources if path.suffix in {".yml", ".py"} for word in words(path)}
    # The check puts the names of these rules together.
    known |= {"pgbouncer_answers", "haproxy_answers", "host_holds_majority"}
    roles = "|".join(path.name for path in (ROOT / "roles").iterdir())
    # What is shown as output may name what is wrong on purpose.
    text = re.sub(r"```text\n.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    mentioned = set(re.findall(rf"\b((?:{roles})_[a-z_]+)\b(?=[`:])", text))
    assert sorted(mentioned - known) == []


def words(path: Path) -> set[str]:
    """Return the identifiers in a source file."""
    return set(re.findall(r"\b[a-z]\w+\b", path.read_text(encoding="utf-8")))
