# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What an operator wants restored of databases, tables and roles. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup.logical import SECTION_OPTIONS
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

SOURCES = ("logical", "physical")
_LONGEST = 63
_TABLE = re.compile(r"^[^.]+\.[^.]+$")


@dataclass(frozen=True)
class Wish:
    """What to restore.

    source: a dump or a physical backup; label: of which, empty for the newest; database: what is restored, empty for the roles;
    into: the database it becomes; tables: only these (schema.table), empty for all; replace: whether what is there gives way;
    type and target: of a physical restore, as for restore_postgresql.yml; password: of the role that restores.
    """

    source: str
    database: str = ""
    into: str = ""
    label: str = ""
    kind: str = "full"
    tables: tuple[str, ...] = ()
    replace: bool = False
    type: str = "latest"
    target: str = ""
    exclusive: bool = False
    parallel: int = 2
    timeout: int = 3600
    password: str = field(default="", repr=False)


def parse_wish(content: Mapping[str, Any]) -> Wish:
    """Return the wish in plain data. Raises Refusal for what can't be."""
    unknown = sorted(set(content) - set(Wish.__dataclass_fields__))
    if unknown:
        raise Refusal(f"restore: {', '.join(unknown)} is unknown")
    values = {key: value for key, value in content.items() if value is not None}
    wish = Wish(**{**values, "tables": tuple(values.get("tables", ()))})
    if wish.source not in SOURCES:
        raise Refusal(f"restore_source {wish.source!r}: allowed are {', '.join(SOURCES)}")
    if wish.kind not in (*SECTION_OPTIONS, "globals"):
        raise Refusal(f"restore_kind {wish.kind!r}: allowed are full, schema, data, globals")
    if not wish.database and (wish.source == "physical" or wish.kind != "globals"):
        raise Refusal("restore_database is missing: name the database to restore")
    if wish.source == "physical" and wish.kind != "full":
        raise Refusal("restore_kind is for dumps only: leave it out with restore_source physical")
    if wish.source == "logical" and (wish.type != "latest" or wish.target):
        raise Refusal("a dump holds one moment: restore_type and restore_target need restore_source physical")
    if (wish.into or wish.database) in ("postgres", "template0", "template1"):
        raise Refusal(
            f"{wish.into or wish.database} is the cluster's own: restore into another database (restore_into)"
        )
    wrong = [name for name in wish.tables if not _TABLE.match(name)]
    if wrong:
        raise Refusal(f"restore_tables: {wrong[0]!r}; each is schema.table, such as public.orders")
    if wish.tables and wish.kind != "full":
        raise Refusal("restore_tables needs a full dump: restore_kind is not full")
    if len(wish.into or wish.database) > _LONGEST - 24:
        raise Refusal(f"restore_into {wish.into or wish.database!r} is too long: at most {_LONGEST - 24} characters")
    return wish
