"""Brings an archive of Marten's events into a store: an empty one fast, a living one batch by batch.

What is there already is known by tenant, stream, version and id, so that a second run, or one after a killed one, adds what lacks.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.holdfast.persistence.plugins.module_utils.backup.sql import identifier, literal
from ansible_collections.holdfast.persistence.plugins.module_utils.events import archive as archives
from ansible_collections.holdfast.persistence.plugins.module_utils.events import keys, marten, psql
from ansible_collections.holdfast.persistence.plugins.module_utils.events.archive import Archive, Part
from ansible_collections.holdfast.persistence.plugins.module_utils.events.export import read_shape
from ansible_collections.holdfast.persistence.plugins.module_utils.events.psql import Reach, Session, SqlError
from ansible_collections.holdfast.persistence.plugins.module_utils.events.shape import (
    DEAD_COLUMNS,
    HIGH_WATER,
    PROGRESSION,
    TAG_VERSIONS,
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
LOCK_SECONDS = 30
_NAMED = 5


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


def load(reach: Reach, archive: Archive, folder: str, wish: Wish, *, check: bool = False) -> Outcome:
    """Import an archive whose files were compared with their digests; with check only tell what would happen. Raises Refusal."""
    archives.require_importable(archive, archives.MARTEN)
    with Session(reach, PROGRAM) as session:
        _alone(session, wish.schema)
        shape = read_shape(session, wish.schema)
        columns = judge(shape, archive)
        _require_wide(session, shape, archive, wish)
        _require_quiet(session, shape, wish)
        here = Store(reach, session, shape, archive, folder, wish, columns)
        events, streams = shape.qualified(shape.events.name), shape.qualified(shape.streams.name)
        empty = session.ask(f"SELECT NOT EXISTS (SELECT 1 FROM {events}) AND NOT EXISTS (SELECT 1 FROM {streams})")
        if wish.rebuild_keys and empty != "t":
            raise Refusal(
                f"keys are rebuilt in empty stores only, but {wish.schema}.mt_events or mt_streams has rows: leave rebuild_keys out"
            )
        if empty == "t" and wish.mode == PRESERVE:
            return here.fill(check)
        return here.merge(check)


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


def _alone(session: Session, schema: str) -> None:
    """Hold the lock of imports into a schema as long as the session lives. Its key has two halves, unlike those of daemons."""
    if session.ask(f"SELECT pg_try_advisory_lock(hashtext('holdfast-import'), hashtext({literal(schema)}))") != "t":
        raise Refusal(f"another import into schema {schema} runs; run again after it")


def _require_wide(session: Session, shape: Shape, archive: Archive, wish: Wish) -> None:
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


def _require_quiet(session: Session, shape: Shape, wish: Wish) -> None:
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
            for row in daemons[:_NAMED]
        )
        raise Refusal(
            f"a daemon seems to lead in this database: advisory locks are held by {told}. "
            "It would take the numbers that are not there yet for holes and never project them. Nothing was written. "
            "Stop the applications' daemons, or name a lock that is none of theirs in accept_locks"
        )
    heartbeat = marten.heartbeat_query(shape)
    alive = session.rows(heartbeat) if heartbeat else []
    if alive:
        raise Refusal(
            f"a daemon told of itself within the last minute ({', '.join(row[0] for row in alive[:_NAMED])}). "
            "Nothing was written. Stop the daemons first"
        )
    if writers:
        told = "; ".join(
            f"process {row[1]} ({row[2]}, {row[3] or 'no application name'}, since {row[4]})"
            for row in writers[:_NAMED]
        )
        raise Refusal(
            f"an application writes events now: {told}. Nothing was written. Stop it, or import with the mode append"
        )


@dataclass
class Store:
    """An import under way: the store's session and shape, the archive and its folder, and what is wished."""

    reach: Reach
    session: Session
    shape: Shape
    archive: Archive
    folder: str
    wish: Wish
    columns: Mapping[str, tuple[str, ...]]

    # An empty store

    def fill(self, check: bool) -> Outcome:
        """Copy everything into an empty store."""
        if self.archive.cut:
            raise Refusal(
                f"archive {self.archive.name} begins in the middle of {self.archive.cut} streams, "
                "and the store has none of their earlier events. Nothing was written. "
                "Import the archive of the time before first, or export whole streams"
            )
        self._require_new_progression()
        outcome = Outcome(inserted=self._total("events"), streams=self._total("streams"))
        outcome.documents = self._documents_wish()
        if check:
            outcome.sequences = self._numbers()
            return outcome
        try:
            if self.wish.rebuild_keys:
                with keys.rebuilt(self.session, self.shape):
                    self._copy_all(parallel=False)
            else:
                self._copy_all(parallel=True)
        except SqlError as error:
            if error.state != "23505":
                raise
            raise Refusal(
                f"an application wrote to schema {self.shape.schema} while it was filled ({error})",
                "Stop it and run again: what is there already stays, what lacks is added",
            ) from error
        self.finish(outcome)
        return outcome

    def _total(self, role: str) -> int:
        return int(self.archive.totals.get(role, 0))

    def _require_new_progression(self) -> None:
        """Raise Refusal where the store has no events, but its daemon says that it has seen some."""
        if not any(table.name == PROGRESSION for table in self.shape.daemon):
            return
        rows = self.session.rows(
            f"SELECT name, last_seq_id FROM {self.shape.qualified(PROGRESSION)} WHERE last_seq_id > 1 AND name NOT LIKE '{HIGH_WATER}%' "
            f"AND name NOT LIKE 'HighWaterAllocationFence%' ORDER BY 1 LIMIT {_NAMED}"
        )
        if rows:
            told = ", ".join(f"{name} at {number}" for name, number in rows)
            raise Refusal(
                f"schema {self.shape.schema} has no events, but projections that have seen some ({told}): "
                f"they would leave imported ones out. Nothing was written. "
                f"Delete these rows of {PROGRESSION} and the projections' documents, then run again"
            )

    def _copy_all(self, parallel: bool) -> None:
        # A stream comes before its events, an event before its tags.
        for part in [*self.archive.of("streams"), *self._side("mt_streams_identity")]:
            self._copy(self.session, part)
        events = self.archive.of("events")
        if parallel:
            self._copy_side_by_side(events)
        else:
            for part in events:
                self._copy(self.session, part)
        for part in self.archive.of("side", "other"):
            if part.table != "mt_streams_identity":
                self._copy(self.session, part)

    def _side(self, table: str) -> list[Part]:
        return [part for part in self.archive.of("side") if part.table == table]

    def _copy(self, session: Session, part: Part, into: str = "", columns: Sequence[str] = ()) -> None:
        """Copy a part into its table, or into a temporary one. Raises Refusal where it has other rows than it was written with."""
        if not part.rows:
            return
        names = columns or part.columns
        target = into or self.shape.qualified(part.table)
        with psql.decompressed(os.path.join(self.folder, part.file)) as descriptor:
            rows = session.copy_in(target, ", ".join(map(identifier, names)), descriptor)
        if rows != part.rows:
            raise Refusal(f"{part.file} gave {rows} rows, not {part.rows}: take another copy of the archive")

    def _copy_side_by_side(self, parts: Sequence[Part]) -> None:
        """Copy parts, each in a transaction of its own."""
        waiting: queue.SimpleQueue[Part] = queue.SimpleQueue()
        for part in parts:
            waiting.put(part)
        trouble: list[BaseException] = []

        def one() -> None:
            try:
                with Session(self.reach, PROGRAM) as session:
                    while not trouble:
                        try:
                            part = waiting.get_nowait()
                        except queue.Empty:
                            return
                        session.ask("BEGIN")
                        self._copy(session, part)
                        session.ask("COMMIT")
            except BaseException as error:
                trouble.append(error)

        threads = [threading.Thread(target=one) for _number in range(max(1, min(self.wish.parallel, len(parts))))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if trouble:
            raise trouble[0]

    # A living store

    def merge(self, check: bool) -> Outcome:
        """Add what a store lacks of an archive."""
        session, shape = self.session, self.shape
        append = self.wish.mode == APPEND
        self._stage()
        session.ask(marten.fresh_query(shape, append))
        session.ask(f"ANALYZE {marten.FRESH}")
        outcome = Outcome()
        self._resolve(outcome, append)
        outcome.inserted = session.count(f"SELECT count(*) FROM {marten.FRESH}")
        outcome.present = self._total("events") - outcome.inserted
        empty = session.count(marten.empty_streams_query(shape))
        outcome.streams = session.count(marten.new_streams_query(shape)) + empty
        outcome.rebuild = [] if append else self._passed_by()
        outcome.documents = self._documents_wish()
        if check:
            outcome.sequences = self._numbers() if not append else {}
            return outcome
        if outcome.inserted:
            self._write(append)
        if empty:
            session.ask("BEGIN")
            for statement in marten.empty_statements(shape, self.columns):
                session.ask(statement)
            session.ask("COMMIT")
        self.finish(outcome)
        return outcome

    def _stage(self) -> None:
        session, shape = self.session, self.shape
        session.ask("SET temp_buffers = '32MB'")
        session.ask(
            marten.staging(
                shape, shape.events.name, marten.STAGE_EVENTS, self.columns.get(shape.events.name, shape.events.names)
            )
        )
        session.ask(
            marten.staging(
                shape,
                shape.streams.name,
                marten.STAGE_STREAMS,
                self.columns.get(shape.streams.name, shape.streams.names),
            )
        )
        for part in self.archive.of("events"):
            self._copy(session, part, marten.STAGE_EVENTS)
        for part in self.archive.of("streams"):
            self._copy(session, part, marten.STAGE_STREAMS)
        for part in self.archive.of("cuts"):
            listed = ", ".join(f"s.{name}" for name in shape.stream_key)
            numbers = ", ".join(f"0::bigint AS {name}" for name in marten.CUT_COLUMNS)
            session.ask(
                f"CREATE TEMPORARY TABLE {marten.STAGE_CUTS} AS SELECT {listed}, {numbers} "
                f"FROM {shape.qualified(shape.streams.name)} s WITH NO DATA"
            )
            self._copy(session, part, marten.STAGE_CUTS)
        for part in self.archive.of("side"):
            if part.table in self.columns:
                stage = marten.stage_of(part.table)
                session.ask(marten.staging(shape, part.table, stage, part.columns))
                self._copy(session, part, stage)
        session.ask(f"ANALYZE {marten.STAGE_EVENTS}, {marten.STAGE_STREAMS}")

    def _resolve(self, outcome: Outcome, append: bool) -> None:
        """Take out streams that can't be taken, or refuse. Raises Refusal."""
        session, shape = self.session, self.shape
        for reason, query in marten.conflict_queries(shape, append, bool(self.archive.of("cuts"))).items():
            found = [" ".join(row) for row in session.rows(f"SELECT * FROM ({query}) q ORDER BY 1 LIMIT 1000")]
            if not found:
                continue
            if self.wish.on_conflict == REFUSE:
                more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
                raise Refusal(
                    f"archive {self.archive.name} does not go with the store: {reason}: stream {', '.join(found[:_NAMED])}{more}. "
                    "Nothing was written. Import with on_conflict skip to leave such streams as they are"
                )
            session.ask(marten.drop_streams(shape, query))
            outcome.skipped += [f"{name}: {reason}" for name in found]
        taken = [] if append else session.rows(marten.taken_query(shape))
        if taken:
            told = ", ".join(row[0] for row in taken)
            raise Refusal(
                f"the store has other events under sequence numbers of archive {self.archive.name} ({told}). Nothing was written. "
                "Import with the mode append, which draws new numbers"
            )

    def _passed_by(self) -> list[str]:
        """Return projections that are past numbers which are to be written: they won't see these events."""
        if not any(table.name == PROGRESSION for table in self.shape.daemon):
            return []
        rows = self.session.rows(
            f"SELECT name FROM {self.shape.qualified(PROGRESSION)} WHERE last_seq_id >= (SELECT min(seq_id) FROM {marten.FRESH}) "
            f"AND name NOT LIKE 'HighWater%' ORDER BY 1"
        )
        return [row[0] for row in rows]

    def _write(self, append: bool) -> None:
        """Write fresh events in the order of their numbers, a transaction for each batch."""
        session, shape = self.session, self.shape
        order = "tenant_id, seq_id" if shape.partitions == "tenants" else "seq_id"
        session.ask(f"ALTER TABLE {marten.FRESH} ADD COLUMN place bigint")
        session.ask(
            f"UPDATE {marten.FRESH} f SET place = n.place FROM (SELECT ctid AS row, row_number() OVER (ORDER BY {order}, id) AS place "
            f"FROM {marten.FRESH}) n WHERE f.ctid = n.row"
        )
        session.ask(f"CREATE INDEX ON {marten.FRESH} (place)")
        session.ask(f"CREATE INDEX ON {marten.STAGE_STREAMS} (id)")
        for table in shape.side:
            if table.name in self.columns and table.name != TAG_VERSIONS:
                key = (
                    "seq_id"
                    if table in shape.tags
                    else next(name for name in table.names if name in ("id", "stream_id", "stream_key"))
                )
                session.ask(f"CREATE INDEX ON {marten.stage_of(table.name)} ({key})")
        session.ask(f"ANALYZE {marten.FRESH}")
        total = session.count(f"SELECT count(*) FROM {marten.FRESH}")
        self._lift(append)
        for first in range(1, total + 1, self.wish.batch):
            session.ask("BEGIN")
            self._shut_out()
            for statement in marten.batch_statements(shape, first, first + self.wish.batch - 1, append, self.columns):
                self._do(statement)
            session.ask("COMMIT")
        self._settle_streams()
        if any(table.name == TAG_VERSIONS for table in shape.side) and TAG_VERSIONS in self.columns:
            session.ask(marten.tag_versions(shape))

    def _lift(self, append: bool) -> None:
        """Lift the sequences before the first batch: what is numbered meanwhile lies above the archive, and above what is there.

        A sequence may stand below the store's own events: Marten 8 makes it anew where archived partitions are switched on.
        """
        for lane in self.shape.lanes:
            there = self.session.count(f"SELECT coalesce(max(seq_id), 0) FROM {self.shape.qualified(lane.table)}")
            highest = max(there, 0 if append else self._highest().get(lane.tenant, 0))
            if highest:
                self.session.ask(marten.setval(self.shape, lane, highest))

    def _shut_out(self) -> None:
        """Keep writers out until the transaction ends; readers are not."""
        self.session.ask(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        tables = f"{self.shape.qualified(self.shape.streams.name)}, {self.shape.qualified(self.shape.events.name)}"
        try:
            self.session.ask(f"LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE")
        except SqlError as error:
            if error.state != "55P03":
                raise
            raise Refusal(
                f"a transaction has been writing events for more than {LOCK_SECONDS} s, so the import stopped between two batches. "
                "Whatever was written is whole; end that transaction and run again"
            ) from error

    def _do(self, statement: str) -> None:
        try:
            self.session.ask(statement)
        except SqlError as error:
            if error.state != "23505":
                raise
            raise Refusal(
                f"an application wrote to a stream of archive {self.archive.name} while it was imported ({error}). "
                "The batch was taken back, what was written before is whole. Run again: the stream is then a conflict, or goes on"
            ) from error

    def _settle_streams(self) -> None:
        """Give streams that end as they do in the archive what the archive says of them beside their version."""
        shape = self.shape
        own = [
            name
            for name in self.columns[shape.streams.name]
            if name not in (*shape.stream_key, "version", "tenant_id", "id")
        ]
        pairs = ", ".join(f"{identifier(name)} = s.{identifier(name)}" for name in own)
        differs = " OR ".join(f"t.{identifier(name)} IS DISTINCT FROM s.{identifier(name)}" for name in own)
        same = " AND ".join(f"t.{name} = s.{name}" for name in shape.stream_key)
        fresh = "SELECT 1 FROM fresh f WHERE f.stream_id = s.id" + (
            " AND f.tenant_id = s.tenant_id" if shape.tenancy == "conjoined" else ""
        )
        self.session.ask(f"CREATE INDEX ON {marten.FRESH} (stream_id)")
        self.session.ask(
            f"UPDATE {shape.qualified(shape.streams.name)} t SET {pairs} FROM {marten.STAGE_STREAMS} s "
            f"WHERE {same} AND t.version = s.version AND ({differs}) AND EXISTS ({fresh})"
        )

    # The end of both

    def _highest(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for part in self.archive.of("events"):
            found[part.lane] = max(found.get(part.lane, 0), part.last)
        return found

    def _numbers(self) -> dict[str, int]:
        """Return what each sequence will have given at least: numbers of the source beyond its last event are spent, too."""
        whole = not any(self.archive.selection.get(name) for name in ("since", "until", "types"))
        highest = self._highest()
        return {
            lane.tenant: max(
                highest.get(lane.tenant, 0), int(self.archive.sequences.get(lane.tenant, 0)) if whole else 0
            )
            for lane in self.shape.lanes
        }

    def finish(self, outcome: Outcome) -> None:
        """Set sequences and HighWaterMark, and carry documents. Last of all, so that no daemon sees a store that is half full."""
        session, shape = self.session, self.shape
        if self.wish.mode == PRESERVE:
            outcome.sequences = self._numbers()
        session.ask("BEGIN")
        if outcome.documents == "carried":
            for part in self.archive.of("documents", "daemon"):
                table = self._table(part.table)
                if part.rows and table is not None:
                    if part.role == "daemon":
                        session.ask(f"DELETE FROM {shape.qualified(part.table)}")
                    self._copy(session, part)
        if self.wish.mode == PRESERVE:
            for lane in shape.lanes:
                number = outcome.sequences.get(lane.tenant, 0)
                if not number:
                    continue
                session.ask(marten.setval(shape, lane, number))
                if outcome.inserted and any(table.name == PROGRESSION for table in shape.daemon):
                    highest = self._highest().get(lane.tenant, 0)
                    if highest:
                        session.ask(marten.high_water(shape, lane, highest))
        session.ask("COMMIT")

    def _table(self, name: str) -> Table | None:
        return next((table for table in (*self.shape.documents, *self.shape.daemon) if table.name == name), None)

    def _documents_wish(self) -> str:
        """Return what becomes of documents and the daemon's rows, in words: `carried`, or why not."""
        parts = self.archive.of("documents", "daemon")
        if not parts:
            return "none in the archive"
        if not self.wish.documents or self.wish.mode == APPEND:
            return "left out: projections are built anew by the daemon"
        for part in parts:
            table = self._table(part.table)
            if part.rows and table is None:
                return f"left out: the store has no {part.table}; projections are built anew by the daemon"
            if part.rows and table is not None and missing_columns(part.columns, table):
                return f"left out: {missing_columns(part.columns, table)[0]}; projections are built anew by the daemon"
        for table in self.shape.documents:
            if self.session.ask(f"SELECT EXISTS (SELECT 1 FROM {self.shape.qualified(table.name)})") == "t":
                return f"left out: the store has documents ({table.name})"
        return "carried"
