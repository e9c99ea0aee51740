# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Brings archives of Akka's journals into journals: staged whole, compared, written batch by batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from ansible_collections.holdfast.persistence.plugins.module_utils.backup.sql import identifier, literal
from ansible_collections.holdfast.persistence.plugins.module_utils.events import akka, psql
from ansible_collections.holdfast.persistence.plugins.module_utils.events import archive as archives
from ansible_collections.holdfast.persistence.plugins.module_utils.events.akka import Journal
from ansible_collections.holdfast.persistence.plugins.module_utils.events.akka_export import given, read
from ansible_collections.holdfast.persistence.plugins.module_utils.events.archive import Archive, Part
from ansible_collections.holdfast.persistence.plugins.module_utils.events.psql import Reach, Session, SqlError
from ansible_collections.holdfast.persistence.plugins.module_utils.events.shape import Table, missing_columns
from ansible_collections.holdfast.persistence.plugins.module_utils.events.target import (
    BATCH,
    NAMED,
    PROGRAM,
    REFUSE,
    require_alone,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

LOCK_SECONDS = 30


@dataclass(frozen=True)
class Wish:
    """How to import. mapping, schema and snapshot_schema: of the journal. ordering: `dense` gives numbers without holes, `keep` those
    of the archive. on_conflict: `refuse` or `skip` ids that can't be taken. batch: events of one transaction."""

    mapping: str
    schema: str = ""
    snapshot_schema: str = ""
    ordering: str = akka.DENSE
    on_conflict: str = REFUSE
    batch: int = BATCH


@dataclass
class Outcome:
    """What an import found and did, or would do. holes: numbers that readers by tag wait for; moved: whether offsets of such readers
    are others than in the source; lost: ids whose snapshot lies above the journal."""

    inserted: int = 0
    present: int = 0
    snapshots: int = 0
    metadata: int = 0
    skipped: list[str] = field(default_factory=list)
    moved: bool = False
    holes: int = 0
    lost: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether the journal is another than before."""
        return bool(self.inserted or self.snapshots or self.metadata)


def load(reach: Reach, archive: Archive, folder: str, wish: Wish, *, check: bool = False) -> Outcome:
    """Import an archive whose files were compared with their digests; with check only tell what would happen. Raises Refusal."""
    archives.require_importable(archive, archives.AKKA)
    with Session(reach, PROGRAM) as session:
        journal = read(session, wish.mapping, wish.schema, wish.snapshot_schema)
        require_alone(session, journal.schema)
        _judge(journal, archive)
        return _run(_Stage(session, journal, archive, folder, wish), check)


def _judge(journal: Journal, archive: Archive) -> None:
    if archive.shape["mapping"] != journal.mapping:
        raise Refusal(
            f"archive {archive.name} has the mapping {archive.shape['mapping']}, the journal {journal.mapping}. Nothing was written",
            "Name the mapping of the archive, and let an application with that mapping make its tables",
        )
    lacking = []
    for part in archive.parts:
        table = _target(journal, part)
        if table is None:
            lacking += [f"it has no table for {part.table}"] if part.rows else []
            continue
        lacking += missing_columns(part.columns, table)
    if lacking:
        raise Refusal(
            f"schema {journal.schema} can't take archive {archive.name}: {'; '.join(lacking)}. Nothing was written",
            "Let an application with the same settings make its tables, then run again",
        )


def _target(journal: Journal, part: Part) -> Table | None:
    of_role = {
        "journal": journal.journal,
        "tags": journal.tags,
        "metadata": journal.metadata,
        "snapshots": journal.snapshots,
    }
    return of_role.get(part.role)


@dataclass(frozen=True)
class _Stage:
    """An import under way: the archive's rows in temporary tables, compared with the journal's."""

    session: Session
    journal: Journal
    archive: Archive
    folder: str
    wish: Wish

    def copy(self) -> None:
        for part in self.archive.parts:
            table = _target(self.journal, part)
            if table is None:
                continue
            stage = _stage_of(part)
            listed = ", ".join(map(identifier, part.columns))
            if self.session.ask(f"SELECT to_regclass('pg_temp.{stage}') IS NULL") == "t":
                self.session.ask(
                    f"CREATE TEMPORARY TABLE {stage} AS SELECT {listed} FROM {self.journal.qualified(table.name)} WITH NO DATA"
                )
            if not part.rows:
                continue
            with psql.decompressed(os.path.join(self.folder, part.file)) as descriptor:
                rows = self.session.copy_in(stage, listed, descriptor)
            if rows != part.rows:
                raise Refusal(f"{part.file} gave {rows} rows, not {part.rows}", "Take another copy of the archive")
        if self.session.ask(f"SELECT to_regclass('pg_temp.{akka.STAGE}') IS NULL") == "t":
            journal = self.journal.qualified(self.journal.journal.name)
            self.session.ask(f"CREATE TEMPORARY TABLE {akka.STAGE} AS SELECT * FROM {journal} WITH NO DATA")
        self.session.ask(f"ANALYZE {akka.STAGE}")

    def resolve(self, outcome: Outcome) -> None:
        for reason, query in akka.conflict_queries(self.journal).items():
            found = [row[0] for row in self.session.rows(f"SELECT * FROM ({query}) q ORDER BY 1 LIMIT 1000")]
            if not found:
                continue
            if self.wish.on_conflict == REFUSE:
                more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
                raise Refusal(
                    f"archive {self.archive.name} does not go with the journal: {reason}: {', '.join(found[:NAMED])}{more}. "
                    "Nothing was written",
                    "Import with on_conflict skip to leave such ids as they are",
                )
            for name in (akka.FRESH, *(_stage_of(part) for part in self.archive.of("metadata", "snapshots"))):
                self.session.ask(f"DELETE FROM {name} WHERE persistence_id IN ({', '.join(map(literal, found))})")
            outcome.skipped += [f"{name}: {reason}" for name in found]

    def lacking(self, role: str) -> int:
        return sum(
            self.session.count(f"SELECT count(*) FROM ({self.missing(part)}) q") for part in self.archive.of(role)
        )

    def missing(self, part: Part) -> str:
        """Return the SQL of staged rows of snapshots or metadata whose key is not there."""
        table = _target(self.journal, part)
        if table is None:
            raise AssertionError(f"{part.file}: its table is known to be there by now")
        same = " AND ".join(f"t.{identifier(name)} = s.{identifier(name)}" for name in table.key)
        listed = ", ".join(f"s.{identifier(name)}" for name in part.columns)
        there = f"SELECT 1 FROM {self.journal.qualified(table.name)} t WHERE {same}"
        return f"SELECT {listed} FROM {_stage_of(part)} s WHERE NOT EXISTS ({there})"

    def place(self) -> bool:
        """Give fresh rows their places; return whether any will have another ordering than in the archive."""
        # Rows of a batch lie side by side then; an update in place would strew them.
        numbered = f"SELECT f.*, row_number() OVER (ORDER BY ordering) AS place FROM {akka.FRESH} f"
        self.session.ask(f"CREATE TEMPORARY TABLE placed AS {numbered}")
        self.session.ask(f"DROP TABLE {akka.FRESH}")
        self.session.ask(f"ALTER TABLE placed RENAME TO {akka.FRESH}")
        self.session.ask(f"CREATE INDEX ON {akka.FRESH} (place)")
        if self.wish.ordering == akka.KEEP:
            return False
        base = self.session.count(given(self.journal))
        return self.session.ask(f"SELECT EXISTS (SELECT 1 FROM {akka.FRESH} WHERE ordering <> place + {base})") == "t"


def _stage_of(part: Part) -> str:
    return {"journal": akka.STAGE, "tags": akka.STAGE_TAGS}.get(part.role, f"stage_{part.role}")


def _run(staged: _Stage, check: bool) -> Outcome:
    session, journal = staged.session, staged.journal
    staged.copy()
    session.ask(akka.fresh_query(journal))
    outcome = Outcome()
    staged.resolve(outcome)
    outcome.inserted = session.count(f"SELECT count(*) FROM {akka.FRESH}")
    outcome.present = int(staged.archive.totals.get("journal", 0)) - outcome.inserted
    outcome.snapshots = staged.lacking("snapshots")
    outcome.metadata = staged.lacking("metadata")
    outcome.moved = staged.place()
    if check:
        return outcome
    if staged.wish.ordering == akka.KEEP:
        _require_free(staged)
    for first in range(1, outcome.inserted + 1, staged.wish.batch):
        _batch(staged, first)
    session.ask("BEGIN")
    for role in ("metadata", "snapshots"):
        _add(staged, role)
    _lift(staged)
    session.ask("COMMIT")
    outcome.holes = session.count(akka.holes_query(journal))
    outcome.lost = [row[0] for row in session.rows(akka.lost_query(journal))]
    return outcome


def _require_free(staged: _Stage) -> None:
    table = staged.journal.qualified(staged.journal.journal.name)
    taken = staged.session.rows(
        f"SELECT f.ordering FROM {akka.FRESH} f JOIN {table} t USING (ordering) ORDER BY 1 LIMIT {NAMED}"
    )
    if taken:
        raise Refusal(
            f"the journal has other rows under the ordering of archive {staged.archive.name} ({', '.join(row[0] for row in taken)}). "
            "Nothing was written",
            "Import with ordering dense, which gives new numbers",
        )


def _batch(staged: _Stage, first: int) -> None:
    session, journal = staged.session, staged.journal
    table = journal.qualified(journal.journal.name)
    session.ask("BEGIN")
    session.ask(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
    try:
        session.ask(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
        if staged.wish.ordering == akka.DENSE:
            # A sequence below the table's own rows would give numbers that are taken.
            session.ask(
                f"SELECT setval({literal(journal.sequence)}, m.n) FROM (SELECT max(ordering) AS n FROM {table}) m, "
                f"{journal.sequence} s WHERE m.n > s.last_value"
            )
        for statement in akka.number_statements(journal, staged.wish.ordering, (first, first + staged.wish.batch - 1)):
            session.ask(statement)
        for statement in akka.insert_statements(journal, _columns(staged, "journal"), _columns(staged, "tags")):
            session.ask(statement)
    except SqlError as error:
        if error.state == "55P03":
            raise Refusal(
                f"a transaction has been writing to {table} for more than {LOCK_SECONDS} s, so the import stopped between two batches. "
                "Whatever was written is whole",
                "End that transaction and run again",
            ) from error
        if error.state == "23505":
            raise Refusal(
                f"an actor of archive {staged.archive.name} wrote while it was imported ({error}). The batch was rolled back; what was "
                "written before is whole",
                "Stop the actors and run again",
            ) from error
        raise
    session.ask("COMMIT")


def _add(staged: _Stage, role: str) -> None:
    for part in staged.archive.of(role):
        table = _target(staged.journal, part)
        if table is None:
            raise AssertionError(f"{part.file}: its table is known to be there by now")
        listed = ", ".join(map(identifier, part.columns))
        staged.session.ask(
            f"INSERT INTO {staged.journal.qualified(table.name)} ({listed}) {staged.missing(part)} ON CONFLICT DO NOTHING"
        )


def _columns(staged: _Stage, role: str) -> Sequence[str]:
    return next((part.columns for part in staged.archive.of(role)), ())


def _lift(staged: _Stage) -> None:
    if staged.wish.ordering == akka.KEEP:
        highest = int(staged.archive.sequences.get("", 0))
        table = staged.journal.qualified(staged.journal.journal.name)
        staged.session.ask(
            f"SELECT setval({literal(staged.journal.sequence)}, greatest({highest}, m.n, s.last_value)) "
            f"FROM (SELECT coalesce(max(ordering), 1) AS n FROM {table}) m, {staged.journal.sequence} s"
        )
