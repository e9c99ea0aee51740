# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What a person reads about a playbook's contract: the text of `-e help=true`, a section of the documents. No I/O."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import Any

from ansible_collections.holdfast.persistence.plugins.plugin_utils.contract.model import Contract
from ansible_collections.holdfast.persistence.plugins.plugin_utils.contract.values import allowed

_WIDTH = 100


def render(contract: Contract, options: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what a playbook does and which variables it takes.

    Parameters: contract, of the playbook; options, its own and those of the playbooks that it runs.
    """
    lines = [f"{contract.playbook}.yml: {contract.summary}.", *contract.description, ""]
    lines += ["Variables, each as -e NAME=VALUE:"] if options else ["It has no variables of its own."]
    for name, option in options.items():
        lines += [f"  {name}: {allowed(option)} ({default(option)})"]
        lines += textwrap.wrap(option["description"], _WIDTH, initial_indent="      ", subsequent_indent="      ")
    if contract.tags:
        lines += ["", f"Parts of it, by --tags: {', '.join(sorted(contract.tags))}."]
    lines += ["", "What the inventory declares: ansible-doc --type role --list holdfast.persistence."]
    return "\n".join(lines)


def default(option: Mapping[str, Any]) -> str:
    """Say what an option is where it is not given."""
    return f"default {json.dumps(option['default'])}" if "default" in option else "no default"


def table(contract: Contract) -> str:
    """Return what docs/playbook_variables.md says of a playbook: its summary and a table of its own variables, in Markdown."""
    lines = [f"## {contract.playbook}.yml", "", f"{contract.summary}. {' '.join(contract.description)}"]
    if contract.options:
        lines += ["", "| variable | takes | without it | what it is |", "|---|---|---|---|"]
    for name, option in contract.options.items():
        without = f"`{json.dumps(option['default'])}`" if "default" in option else "all"
        lines.append(f"| `{name}` | {allowed(option)} | {without} | {option['description']} |")
    if contract.includes:
        lines += [
            "",
            f"It runs {', '.join(f'{name}.yml' for name in contract.includes)} as well, and takes their variables.",
        ]
    if contract.tags:
        lines += ["", f"`--tags`: {', '.join(f'`{tag}`' for tag in sorted(contract.tags))}."]
    return "\n".join(lines)
