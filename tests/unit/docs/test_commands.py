# SPDX-License-Identifier: Apache-2.0
"""Every command in a document could be typed: its playbook exists and knows the variables and tags, and the values are allowed."""

from __future__ import annotations

from pathlib import Path

import documented
import pytest
import yaml
from ansible_collections.holdfast.persistence.plugins.plugin_utils.contract import model, names, values

ROOT = Path(__file__).resolve().parents[3]
CONTRACTS = {
    path.stem: model.read(path.stem, yaml.safe_load(path.read_text()))
    for path in (ROOT / "playbooks/specs").glob("*.yml")
}
ROLES = {
    path.parts[-3]: list(yaml.safe_load(path.read_text())["argument_specs"]["main"].get("options") or {})
    for path in (ROOT / "roles").glob("*/meta/argument_specs.yml")
}
COMMANDS = documented.commands()


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 40
    shown = {command.playbook for command in COMMANDS}
    assert shown >= CONTRACTS.keys() - {"demote_cluster", "promote_cluster"}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.place} {command.playbook}")
def test_a_command_can_be_typed(command: documented.Command) -> None:
    assert command.playbook in CONTRACTS
    ran = (command.playbook,)
    assert list(names.refusals(list(command.variables), ran, CONTRACTS, ROLES, ())) == []
    assert list(names.unknown_tags(command.tags, ran, CONTRACTS)) == []
    options = model.whole(command.playbook, CONTRACTS)
    for name in command.variables.keys() & options.keys():
        values.cast(name, command.variables[name], options[name])


def test_a_command_is_read_as_a_shell_reads_it(tmp_path, monkeypatch) -> None:
    text = (
        "$ ansible-playbook -i mine playbooks/site.yml --check --tags etcd,patroni -e a=1 \\\n"
        '    -e \'{"b": ["two words"]}\' -e \'c="x y"\'  # a remark\n'
        "See `update.yml --tags valkey`, or `ansible-playbook holdfast.persistence.status | less`.\n"
    )
    (tmp_path / "page.md").write_text(text)
    monkeypatch.setattr(documented, "ROOT", tmp_path)
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks/update.yml").write_text("")
    monkeypatch.setattr(documented, "documents", lambda: [tmp_path / "page.md"])
    one, other, third = documented.commands()
    assert (one.place, one.playbook, one.tags) == ("page.md:1", "site", ("etcd", "patroni"))
    assert one.variables == {"a": "1", "b": ["two words"], "c": "x y"}
    assert "-i" not in one.options and "--check" in one.options
    assert {(other.playbook, other.tags), (third.playbook, third.tags)} == {("update", ("valkey",)), ("status", ())}
