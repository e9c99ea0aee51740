"""The documents name only what exists, and all of what they promise to list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.judge import RULE_NAMES

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
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


def test_every_document_is_in_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"\]\((\w+\.md)\)", index))
    assert listed == {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}


def test_every_rule_of_the_preflight_is_explained() -> None:
    text = (ROOT / "docs/preflight.md").read_text(encoding="utf-8")
    explained = {
        name for row in re.findall(r"^\| (`.+?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert explained == set(RULE_NAMES)


@pytest.mark.parametrize("document", NAMED)
def test_variables_in_documents_are_declared(document: Path) -> None:
    declared = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "roles").glob("*/meta/argument_specs.yml"))
    names = set(re.findall(r"^\s+(\w+):$", declared, re.MULTILINE))
    roles = "|".join(path.name for path in (ROOT / "roles").iterdir())
    mentioned = set(re.findall(rf"\b((?:{roles})_[a-z_]+)\b(?=[`:])", document.read_text(encoding="utf-8")))
    others = {path.stem for path in (ROOT / "plugins/modules").glob("*.py")} | set(RULE_NAMES)
    assert sorted(mentioned - names - others) == []
