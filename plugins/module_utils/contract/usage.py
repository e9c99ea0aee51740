"""The text that `-e help=true` prints. No I/O."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.contract.model import Contract
from ansible_collections.holdfast.persistence.plugins.module_utils.contract.values import allowed

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
