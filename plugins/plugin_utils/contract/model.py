# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What a playbook may be asked for: its options, those of the playbooks that it runs, and names of earlier releases. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Every playbook has it.
HELP = "help"


@dataclass(frozen=True)
class Contract:
    """The specification of one playbook, as its file under playbooks/specs/ has it.

    An option without a default may be absent. Of each entry of needs one group must have a host.
    """

    playbook: str
    summary: str
    description: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]]
    renamed: Mapping[str, str]
    includes: tuple[str, ...]
    tags: frozenset[str]
    needs: tuple[tuple[str, ...], ...]

    @property
    def names(self) -> frozenset[str]:
        """The names of its own options."""
        return frozenset(self.options)


def read(playbook: str, content: Mapping[str, Any]) -> Contract:
    """Return the contract of a playbook.

    Parameters: playbook, its name without folder and suffix; content, of its file of specification.
    """
    main = content["argument_specs"]["main"]
    return Contract(
        playbook=playbook,
        summary=main["short_description"],
        description=tuple(main["description"]),
        options=main["options"],
        renamed=content.get("renamed", {}),
        includes=tuple(content.get("includes", ())),
        tags=frozenset(content.get("tags", ())),
        needs=tuple(map(tuple, content.get("needs", ()))),
    )


def whole(playbook: str, contracts: Mapping[str, Contract]) -> dict[str, Mapping[str, Any]]:
    """Return the options of a playbook and of all that it runs, by name; its own come first."""
    own = contracts[playbook]
    options = dict(own.options)
    for name in own.includes:
        for option, specification in contracts[name].options.items():
            options.setdefault(option, specification)
    return options
