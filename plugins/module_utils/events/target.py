# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The store that an import writes to: how it is reached, what it can take, and who else works in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.holdfast.persistence.plugins.module_utils.backup.sql import identifier, literal
from ansible_collections.holdfast.persistence.plugins.module_utils.events import marten, psql
from ansible_collections.holdfast.persistence.plugins.module_utils.events.archive import Archive, Part
from ansible_collections.holdfast.persistence.plugins.module_utils.events.psql import Reach, Session, SqlError
from ansible_collections.holdfast.persistence.plugins.module_utils.events.shape import (
    DEAD_COLUMNS,
    PROGRESSION,
    Shape,
    Table,
    differences,
    missing_columns,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

PROGRAM = "holdfast-import"
PRESERVE, APPEND = "preserve", "append"
REFUSE, SKIP = "refuse", "skip"
BATCH = 10_000
NAMED = 5
ALONE_SECONDS = 5


@dataclass(frozen=True)
class Wish:
    """How to import.

    schema: of the store. mode: `preserve` keeps sequence numbers, `append` draws new ones. on_conflict: `refuse` or `skip` streams
    that can't be taken. rebuild_keys: drop keys of an empty store and build them again, all in one transaction. documents: whether
    tables of projections and the daemon's rows come along where the store has none. accept_locks: advisory locks that are no
    daemon's. batch: events of one transaction in a living store. parallel: parts at a time in an empty one.
    """

    schema: str
    mode: str = PRESERVE
    on_conflict: str = REFUSE
    rebuild_keys: bool = False
    documents: bool = True
    accept_locks: tuple[int, ...] = ()
    batch: int = BATCH
    parallel: int = 2


@dataclass
class Outcome:
    """What an import found and did, or would do. Numbers are of events and streams."""

    inserted: int = 0
    present: int = 0
    streams: int = 0
    skipped: list[str] = field(default_factory=list)
    rebuild: list[str] = field(default_factory=list)
    documents: str = "none in the archive"
    sequences: dict[str, int] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether the store is another than before."""
        return bool(self.inserted or self.streams or self.documents == "carried")


@dataclass(frozen=True)
class Target:
    """An import under way: the way to the store, its session and shape, the archive and its folder, what is wished, columns by table."""

    reach: Reach
    session: Session
    shape: Shape
    archive: Archive
    folder: str
    wish: Wish
    columns: Mapping[str, tuple[str, ...]]

    def total(self, role: str) -> int:
        """Return how many rows of a role the archive has."""
        return int(self.archive.totals.get(role, 0))

    def side(self, table: str) -> list[Part]:
        """Return the parts of one table beside the events."""
        return [part for part in self.archive.of("side") if part.table == table]

    def copy(self, session: Session, part: Part, into: str = "") -> None:
        """Copy a part into its table, or into a temporary one. Raises Refusal where it has other rows than it was written with."""
        if not part.rows:
            return
        table = into or self.shape.qualified(part.table)
        with psql.decompressed(os.path.join(self.folder, part.file)) as descriptor:
            rows = session.copy_in(table, ", ".join(map(identifier, part.columns)), descriptor)
        if rows != part.rows:
            raise Refusal(f"{part.file} gave {rows} rows, not {part.rows}: take another copy of the archive")

    def table(self, name: str) -> Table | None:
        """Return one of the store's tables of projections or of the daemon, None where it has none of that name."""
        return next((table for table in (*self.shape.documents, *self.shape.daemon) if table.name == name), None)

    @property
    def is_projected(self) -> bool:
        """Whether the store has the table in which daemons keep how far they are."""
        return any(table.name == PROGRESSION for table in self.shape.daemon)

    @property
    def highest(self) -> dict[str, int]:
        """Return the last number of the archive's events by lane."""
        found: dict[str, int] = {}
        for part in self.archive.of("events"):
            found[part.lane] = max(found.get(part.lane, 0), part.last)
        return found


def judge(shape: Shape, archive: Archive) -> dict[str, tuple[str, ...]]:
    """Return the columns to write by table. Raises Refusal where the store can't take the archive."""
    found = differences(archive.shape, shape)
    if found:
        raise Refusal(
            f"schema {shape.schema} can't take archive {archive.name}: {'; '.join(found)}. Nothing was written"
        )
    tables = {
        table.name: table
        for table in (shape.events, shape.streams, *shape.side, *shape.daemon, *shape.documents, *shape.other)
    }
    columns: dict[str, tuple[str, ...]] = {}
    lacking: list[str] = []
    for part in archive.parts:
        if part.role in ("cuts", "daemon", "documents") or (part.table not in tables and not part.rows):
            continue
        if part.table not in tables:
            lacking.append(f"it has no table {part.table}")
            continue
        if part.table not in columns:
            lacking += missing_columns(part.columns, tables[part.table])
            columns[part.table] = tuple(
                name for name in part.columns if name in tables[part.table].names or name not in DEAD_COLUMNS
            )
    if lacking:
        raise Refusal(
            f"schema {shape.schema} can't take archive {archive.name}: {'; '.join(lacking)}. Nothing was written. "
            "Let an application with the same settings (and a release of Marten not older) make its tables, then run again"
        )
    return columns


def require_alone(session: Session, schema: str) -> None:
    """Hold the lock of imports into a schema as long as the session lives; its key has two halves, unlike daemons'. Raises Refusal."""
    # The server ends the session of an import that just ended, or was killed, a moment after it.
    session.ask(f"SET lock_timeout = '{ALONE_SECONDS}s'")
    try:
        session.ask(f"SELECT pg_advisory_lock(hashtext('holdfast-import'), hashtext({literal(schema)}))")
    except SqlError as error:
        if error.state != "55P03":
            raise
        raise Refusal(f"another import into schema {schema} runs; run again when that is done") from error
    session.ask("SET lock_timeout = 0")


def require_wide(session: Session, shape: Shape, archive: Archive, wish: Wish) -> None:
    """Raise Refusal where the store's functions can't count as far as the archive does."""
    highest = max((part.last for part in archive.of("events")), default=0)
    if (
        wish.mode == PRESERVE
        and highest > marten.INT_MAX
        and session.count(marten.narrow_functions_query(shape.schema))
    ):
        raise Refusal(
            f"archive {archive.name} has sequence numbers up to {highest}, but the store's mt_quick_append_events counts in 32 bits "
            "(EnableBigIntEvents is off): no application could append after it. Switch it on, or import with the mode append"
        )


def require_quiet(session: Session, shape: Shape, wish: Wish) -> None:
    """Raise Refusal where a daemon leads, or an application writes into a store whose numbers are to be kept."""
    found = session.rows(marten.who_works_query(shape.schema))
    daemons = [row for row in found if row[0] == "daemon" and int(row[5]) not in wish.accept_locks]
    writers = [row for row in found if row[0] == "writer"]
    if wish.mode == APPEND:
        # Numbers are drawn last and under a lock there: daemons see no hole, writers wait for a batch.
        return
    if daemons:
        told = "; ".join(
            f"process {row[1]} ({row[2]}, {row[3] or 'no application name'}, since {row[4]}, lock {row[5]})"
            for row in daemons[:NAMED]
        )
        raise Refusal(
            f"a daemon seems to lead in this database: advisory locks are held by {told}. "
            "It would treat the numbers that are still missing as holes and never project them. Nothing was written. "
            "Stop the applications' daemons, or name a lock that is none of theirs in accept_locks"
        )
    heartbeat = marten.heartbeat_query(shape)
    alive = session.rows(heartbeat) if heartbeat else []
    if alive:
        raise Refusal(
            f"a daemon reported within the last minute ({', '.join(row[0] for row in alive[:NAMED])}). "
            "Nothing was written. Stop the daemons first"
        )
    if writers:
        told = "; ".join(
            f"process {row[1]} ({row[2]}, {row[3] or 'no application name'}, since {row[4]})" for row in writers[:NAMED]
        )
        raise Refusal(
            f"an application writes events now: {told}. Nothing was written. Stop it, or import with the mode append"
        )
