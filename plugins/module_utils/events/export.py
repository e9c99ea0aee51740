# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Writes archives: one snapshot, parts side by side under it, a manifest last."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import manifest as manifests
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import store
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.manifest import File, Manifest
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.sql import literal
from ansible_collections.holdfast.persistence.plugins.module_utils.events import archive as archives
from ansible_collections.holdfast.persistence.plugins.module_utils.events import marten, psql, ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.events.archive import Archive, Part
from ansible_collections.holdfast.persistence.plugins.module_utils.events.marten import Task
from ansible_collections.holdfast.persistence.plugins.module_utils.events.psql import Reach, Session
from ansible_collections.holdfast.persistence.plugins.module_utils.events.ranges import Range, Selection
from ansible_collections.holdfast.persistence.plugins.module_utils.events.shape import (
    TENANT_PARTITIONS,
    Shape,
    Table,
    catalogue_query,
    describe,
    parse_shape,
    require_known,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import replace_file
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

ENGINE = archives.ENGINE
STATE = "state.json"
PROGRAM = "holdfast-export"


@dataclass(frozen=True)
class Order:
    """What to export.

    name: of the archive. schema: of the store. selection: which events. format: `archive` or `jsonl`. documents: whether tables of
    projections and the daemon's rows go with a whole store. carry: unknown tables whose every row goes with it. parallel: parts read
    at a time. rate: bytes a second written at most, 0 for any. level: of zstd. part: events of one file. more: what else the order
    says, for other kinds of archives.
    """

    name: str
    schema: str
    selection: Selection = field(default_factory=Selection)
    format: str = "archive"
    documents: bool = True
    carry: tuple[str, ...] = ()
    parallel: int = 2
    rate: int = 0
    level: int = 3
    part: int = ranges.PART_EVENTS
    more: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where an archive goes to: folder of backups, name of the cluster, id of the set that it belongs to or empty, and whether it is
    made beside an archive of the same name."""

    backup_dir: str
    cluster: str = ""
    set: str = ""
    again: bool = False


@dataclass(frozen=True)
class Unfinished:
    """An archive that is being written: its folder, its label, when it was begun."""

    path: str
    label: str
    begun: datetime.datetime


@dataclass(frozen=True)
class Made:
    """What an export did. fresh: whether the archive was written now; resumed: parts of a killed run that were still right."""

    label: str
    path: str
    archive: Archive
    bytes: int
    fresh: bool
    resumed: int = 0


def read_shape(session: Session, schema: str) -> Shape:
    """Return the shape of a store. Raises Refusal."""
    data = session.data(catalogue_query(schema))
    tenants: dict[str, str] = {}
    if any(row["name"] == TENANT_PARTITIONS for row in data["tables"]):
        query = (
            f"SELECT json_object_agg(partition_value, partition_suffix) FROM {schema_table(schema, TENANT_PARTITIONS)}"
        )
        tenants = json.loads(session.ask(query) or "{}")
    return parse_shape(data, schema, tenants)


def schema_table(schema: str, table: str) -> str:
    """Return a table as SQL takes it."""
    return f'"{schema}"."{table}"'.replace("\x00", "")


def find(backup_dir: str, name: str) -> str:
    """Return the label of the newest whole archive of a name, or the label itself; empty where there is none."""
    labels = store.labels(backup_dir, ENGINE)
    if name in labels:
        return name
    return next((label for label in reversed(labels) if label.partition("-")[2] == name), "")


def require(backup_dir: str, name: str) -> str:
    """Return the label of an archive by its name or label. Raises Refusal where there is none."""
    label = find(backup_dir, name)
    if not label:
        known = ", ".join(store.labels(backup_dir, ENGINE)[-5:]) or "none"
        raise Refusal(f"there is no archive {name} in {backup_dir}/{ENGINE}; the last are {known}")
    return label


def load(backup_dir: str, label: str, deep: bool = True) -> tuple[Archive, str]:
    """Return an archive and its folder, with deep after every file was compared with its digest. Raises Refusal."""
    found = store.look(backup_dir, ENGINE, label, deep=deep)
    if found.manifest is None or found.problems:
        raise Refusal(
            f"archive {label} is damaged: {'; '.join(found.problems)}. Nothing was written. "
            "Fetch another copy (holdfast-backup fetch), or use another archive"
        )
    with open(os.path.join(found.path, manifests.FILE_NAME), encoding="utf-8") as file:
        return archives.parse(found.manifest, file.read()), found.path


def asked(order: Order, kind: str) -> dict[str, Any]:
    """Return what makes two exports the same: what was asked for."""
    return {
        "kind": kind,
        "schema": order.schema,
        "encoding": archives.ENCODINGS[order.format],
        "selection": _plain(order.selection),
        "documents": order.documents,
        "carry": list(order.carry),
        **order.more,
    }


def _plain(selection: Selection) -> dict[str, Any]:
    return {**asdict(selection), "tenants": list(selection.tenants), "types": list(selection.types)}


def existing(backup_dir: str, order: Order, kind: str, database: str) -> Made | None:
    """Return the whole archive of that name, if there is one. Raises Refusal where it is of another order."""
    label = find(backup_dir, order.name)
    if not label:
        return None
    found, path = load(backup_dir, label, deep=False)
    here = {**asked(order, kind), "database": database}
    there = {**found.source.get("asked", {}), "database": found.source.get("database")}
    if here != there:
        other = ", ".join(sorted(name for name in here if here[name] != there.get(name)))
        raise Refusal(
            f"archive {order.name} exists already ({label}), made with another {other}. Choose another name, or delete it"
        )
    return Made(label, path, found, _size(path), fresh=False)


def _size(path: str) -> int:
    return sum(os.path.getsize(os.path.join(path, name)) for name in store.files(path))


def export(reach: Reach, place: Place, order: Order, *, check: bool = False) -> Made | dict[str, Any]:
    """Write the archive of an order, or with check return what it would hold. Raises Refusal."""
    archives.check_name(order.name)
    there = None if place.again else existing(place.backup_dir, order, archives.MARTEN, reach.database)
    if there:
        return there
    with Session(reach, PROGRAM) as holder:
        holder.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        shape = read_shape(holder, order.schema)
        carried = require_known(shape, order.carry)
        _require_tenants(holder, shape, order.selection)
        planned, counted = _plan(holder, shape, order)
        tasks = marten.tasks(
            shape,
            order.selection,
            planned,
            documents=order.documents,
            carried=carried,
            lines=order.format == "jsonl",
        )
        if check:
            return {"shape": describe(shape), "events": counted, "parts": [task.file for task in tasks]}
        lanes = marten.lanes_of(shape, order.selection)
        told = {
            "kind": archives.MARTEN,
            "shape": describe(shape),
            "tables": tables_told(
                [shape.events, shape.streams, *shape.side, *shape.daemon, *shape.documents, *carried], tasks
            ),
            "sequences": {lane.tenant: holder.count(marten.sequence_query(shape, lane)) for lane in lanes},
        }

        def unchanged(task: Task, rows: int, oldest: int) -> bool:
            if task.role != "events":
                return False
            lane = next(item for item in lanes if item.tenant == task.lane)
            query = marten.unchanged_query(shape, lane, order.selection, task, oldest)
            number, old = holder.rows(query)[0]
            return int(number) == rows and old == "t"

        return Writer(reach, place, order, holder, told, unchanged).write(tasks)


def tables_told(tables: Sequence[Table], tasks: Sequence[Task]) -> dict[str, Any]:
    """Return what an archive says of its tables: columns with their types, and the key."""
    taken = {task.table for task in tasks}
    return {
        table.name: {"columns": {column.name: column.type for column in table.columns}, "key": list(table.key)}
        for table in tables
        if table.name in taken
    }


def _require_tenants(holder: Session, shape: Shape, chosen: Selection) -> None:
    if not chosen.tenants:
        return
    if "tenant_id" not in shape.events.names or shape.tenancy != "conjoined":
        raise Refusal(f"tenants are named, but the store in schema {shape.schema} has a single tenant: leave them out")
    if shape.partitions == "tenants":
        known = [lane.tenant for lane in shape.lanes]
    else:
        table = shape.qualified(shape.streams.name)
        known = holder.data(f"SELECT coalesce(json_agg(DISTINCT tenant_id), '[]') FROM {table}")
    absent = [name for name in chosen.tenants if name not in known]
    if absent:
        raise Refusal(f"the store has no tenant {', '.join(absent)}; it has {', '.join(sorted(known)[:20]) or 'none'}")


def _plan(holder: Session, shape: Shape, order: Order) -> tuple[list[Range], int]:
    bounds: list[tuple[int, int] | None] = []
    counts = []
    for lane in marten.lanes_of(shape, order.selection):
        first, last, number = holder.rows(marten.bounds_query(shape, lane, order.selection))[0]
        bounds.append((int(first), int(last)) if first else None)
        counts.append(int(number) if number != "-1" else int(last or 0) - int(first or 1) + 1)
    size = ranges.part_size(sum(counts), order.part, order.parallel)
    return ranges.plan(bounds, counts, size), sum(counts)


@dataclass(frozen=True)
class Writer:
    """An export under way.

    holder: the session whose snapshot is read. told: kind, shape and sequences of the archive. unchanged: whether rows of a task are
    still those that a run read whose oldest running transaction is given.
    """

    reach: Reach
    place: Place
    order: Order
    holder: Session
    told: Mapping[str, Any]
    unchanged: Callable[[Task, int, int], bool]

    @property
    def _ending(self) -> str:
        return "jsonl.zst" if self.order.format == "jsonl" else "copy.zst"

    def write(self, tasks: Sequence[Task]) -> Made:
        """Write the files, the manifest last; continue where a killed run of the same order ended. Raises Refusal."""
        source = _source(self.holder, self.reach, self.order, self.told["kind"])
        unfinished = _folder(self.place.backup_dir, self.order, source)
        done = _resume(unfinished.path, source, tasks, self.unchanged)
        kept = len(done)
        self._work([task for task in tasks if task.file not in done], unfinished, source, done)
        parts = tuple(
            Part(
                f"{task.file}.{self._ending}",
                task.table,
                task.role,
                done[task.file]["rows"],
                task.columns,
                task.lane,
                task.first,
                task.last,
            )
            for task in tasks
        )
        totals: dict[str, int] = {}
        for part in parts:
            totals[part.role] = totals.get(part.role, 0) + part.rows
        archive = Archive(
            kind=self.told["kind"],
            name=self.order.name,
            encoding=archives.ENCODINGS[self.order.format],
            shape=self.told["shape"],
            selection=_plain(self.order.selection),
            source=source,
            parts=parts,
            tables=self.told["tables"],
            sequences=self.told["sequences"],
            totals=totals,
            cut=totals.get("cuts", 0),
        )
        files = tuple(
            File(part.file, done[task.file]["bytes"], done[task.file]["sha256"])
            for part, task in zip(parts, tasks, strict=True)
        )
        path = _finish(self.place, unfinished, archive, files)
        return Made(unfinished.label, path, archive, sum(file.bytes for file in files), fresh=True, resumed=kept)

    def _work(
        self, tasks: Sequence[Task], unfinished: Unfinished, source: Mapping[str, Any], done: dict[str, dict[str, Any]]
    ) -> None:
        """Write files, several at a time, and what is done after each. Raises the first error, when all have ended."""
        snapshot = self.holder.ask("SELECT pg_export_snapshot()")
        oldest = self.holder.count("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
        state = {name: source[name] for name in ("asked", "system_identifier", "database")}
        waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
        for task in tasks:
            waiting.put(task)
        trouble: list[BaseException] = []
        guard = threading.Lock()
        workers = max(1, min(self.order.parallel, len(tasks)))

        def one() -> None:
            try:
                with Session(self.reach, PROGRAM) as session:
                    session.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                    session.ask(f"SET TRANSACTION SNAPSHOT {literal(snapshot)}")
                    while not trouble:
                        try:
                            task = waiting.get_nowait()
                        except queue.Empty:
                            return
                        entry = {**self._one(session, task, unfinished.path, workers), "oldest": oldest}
                        with guard:
                            done[task.file] = entry
                            text = json.dumps({**state, "done": done})
                            replace_file(os.path.join(unfinished.path, STATE), text, mode=0o640)
            except BaseException as error:
                trouble.append(error)

        threads = [threading.Thread(target=one) for _number in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if trouble:
            raise trouble[0]

    def _one(self, session: Session, task: Task, folder: str, workers: int) -> dict[str, Any]:
        copy = session.copy_lines if self.order.format == "jsonl" else session.copy_out
        written, rows = psql.compress(
            os.path.join(folder, f"{task.file}.{self._ending}"),
            lambda descriptor: copy(task.query, descriptor),
            self.order.level,
            self.order.rate / workers,
        )
        return {"rows": rows, "bytes": written.bytes, "sha256": written.sha256, "query": task.query}


def _source(holder: Session, reach: Reach, order: Order, kind: str) -> dict[str, Any]:
    told = holder.data(
        "SELECT json_build_object('server_version', current_setting('server_version_num')::int, "
        "'system_identifier', (SELECT system_identifier::text FROM pg_control_system()), "
        "'encoding', current_setting('server_encoding'), "
        "'lsn', (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text, "
        "'snapshot', pg_current_snapshot()::text, 'time', now())"
    )
    return {**told, "database": reach.database, "host": reach.host, "asked": asked(order, kind)}


def _folder(backup_dir: str, order: Order, source: Mapping[str, Any]) -> Unfinished:
    """Return the unfinished archive of a killed run of the same order, or a new one."""
    now = contexts.now()
    for name in store.names(backup_dir, ENGINE):
        label = name.removesuffix(manifests.PARTIAL)
        if not manifests.is_partial(name) or label.partition("-")[2] != order.name:
            continue
        path = os.path.join(backup_dir, ENGINE, name)
        if _state(path).get("asked") == source["asked"]:
            return Unfinished(path, label, now)
        shutil.rmtree(path)
    label = manifests.new_label(now, order.name, store.names(backup_dir, ENGINE))
    return Unfinished(store.begin(backup_dir, ENGINE, label), label, now)


def _state(partial: str) -> dict[str, Any]:
    try:
        with open(os.path.join(partial, STATE), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def _resume(
    partial: str, source: Mapping[str, Any], tasks: Sequence[Task], unchanged: Callable[[Task, int, int], bool]
) -> dict[str, dict[str, Any]]:
    """Return the files of a killed run that are whole and still say what the store says; remove the others."""
    state = _state(partial)
    same = all(state.get(name) == source[name] for name in ("asked", "system_identifier", "database"))
    ending = "jsonl.zst" if source["asked"]["encoding"] == archives.JSON_LINES else "copy.zst"
    known = {f"{task.file}.{ending}": task for task in tasks}
    done: dict[str, dict[str, Any]] = {}
    for name in list(store.files(partial)):
        path = os.path.join(partial, name)
        task = known.get(name)
        entry = state.get("done", {}).get(task.file) if task and same else None
        if (
            task
            and entry
            and entry["query"] == task.query
            and _is_written(path, entry)
            and unchanged(task, entry["rows"], entry["oldest"])
        ):
            done[task.file] = entry
        else:
            os.unlink(path)
    return done


def _is_written(path: str, entry: Mapping[str, Any]) -> bool:
    return os.path.getsize(path) == entry["bytes"] and store.digest(path) == entry["sha256"]


def _finish(place: Place, unfinished: Unfinished, archive: Archive, files: tuple[File, ...]) -> str:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(unfinished.path, STATE))
    plain = Manifest(
        engine=ENGINE,
        kind=archive.kind if archive.encoding == archives.COPY_TEXT else "jsonl",
        cluster=place.cluster,
        label=unfinished.label,
        set=place.set,
        start=manifests.iso(unfinished.begun),
        end=contexts.stamp(),
        position={"lsn": archive.source["lsn"], "snapshot": archive.source["snapshot"]},
        versions={
            "postgresql": f"{archive.source['server_version'] // 10000}.{archive.source['server_version'] % 10000}"
        },
        files=files,
        extras={**archives.extras(archive), "database": archive.source["database"]},
    )
    text = manifests.dump(plain)
    extras = {**plain.extras, **archives.sealed(text)}
    return store.finish(unfinished.path, Manifest(**{**plain.__dict__, "extras": extras}))


def told(made: Made) -> dict[str, Any]:
    """Return what an export did as plain data."""
    archive = made.archive
    return {
        "archive": archive.name,
        "label": made.label,
        "path": made.path,
        "bytes": made.bytes,
        "totals": dict(archive.totals),
        "cut_streams": archive.cut,
        "resumed_parts": made.resumed,
        "shape": dict(archive.shape),
    }


@contextlib.contextmanager
def in_words(who: str) -> Iterator[None]:
    """Turn what can't be read of a manifest or a disk into errors of archives. who: what is being done."""
    try:
        yield
    except OSError as error:
        raise Refusal(f"{who}: {error}") from error
