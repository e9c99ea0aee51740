# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Marten's rules, as SQL: what an export reads, what an import compares and writes. No I/O.

Facts of the source: seq_id is the order of all events, but neither that of commits nor that of times; the daemon reads above a
progression row and below HighWaterMark, waits at holes, and takes a hole older than three seconds for good
(JasperFx/marten src/Marten/Events/Daemon/HighWater); tags are keyed by seq_id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.backup.sql import identifier, literal
from ansible_collections.holdfast.persistence.plugins.module_utils.events import ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.events.ranges import Range, Selection
from ansible_collections.holdfast.persistence.plugins.module_utils.events.shape import (
    IDENTITY,
    PROGRESSION,
    TAG_VERSIONS,
    Lane,
    Shape,
    Table,
)

# A failed append in rich mode leaves such an event, to fill the number that it had drawn.
TOMBSTONE = "tombstone"
INT_MAX = 2_147_483_647
CUT_COLUMNS = ("first_version", "last_version", "events")


@dataclass(frozen=True)
class Task:
    """One file of an export: name without ending, table, role, the query of its rows, its columns, lane and range."""

    file: str
    table: str
    role: str
    query: str
    columns: tuple[str, ...]
    lane: str = ""
    first: int = 0
    last: int = 0


# Export


def lanes_of(shape: Shape, chosen: Selection) -> list[Lane]:
    """Return the lanes that hold events of a selection."""
    return [lane for lane in shape.lanes if not lane.tenant or not chosen.tenants or lane.tenant in chosen.tenants]


def bounds_query(shape: Shape, lane: Lane, chosen: Selection) -> str:
    """Return the SQL for first and last number and count of a lane's events of a selection; the count is -1 where it costs a scan.

    Times and numbers need not rise together, and Marten has no index of times: a range of time is looked for in all events, once.
    """
    where = ranges.conditions(chosen, has_tenants=not lane.tenant)
    table = shape.qualified(lane.table)
    if not where:
        return f"SELECT min(seq_id), max(seq_id), -1 FROM {table}"
    return f"SELECT min(seq_id), max(seq_id), count(*) FROM {table} e WHERE {' AND '.join(where)}"


def sequence_query(shape: Shape, lane: Lane) -> str:
    """Return the SQL for the last number that a lane's sequence has given, 0 for none."""
    return f"SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM {shape.qualified(lane.sequence)}"


def tasks(
    shape: Shape,
    chosen: Selection,
    planned: Sequence[Range],
    *,
    documents: bool,
    carried: Sequence[Table],
    lines: bool,
) -> list[Task]:
    """Return the files of an export, events first.

    Parameters: planned, the ranges of events; documents, whether documents and the daemon's rows go with them; carried, tables
    whose every row goes with them; lines, whether JSON lines are made instead of COPY text.
    """
    lanes = lanes_of(shape, chosen)
    found = []
    for number, part in enumerate(planned, 1):
        lane = lanes[part.lane]
        where = [
            f"e.seq_id BETWEEN {part.first} AND {part.last}",
            *ranges.conditions(chosen, has_tenants=not lane.tenant),
        ]
        body = f"FROM {shape.qualified(lane.table)} e WHERE {' AND '.join(where)} ORDER BY e.seq_id"
        listed = _line(shape.events, "e") if lines else shape.events.listed("e.")
        found.append(
            Task(
                f"events-{number:06}",
                shape.events.name,
                "events",
                f"SELECT {listed} {body}",
                shape.events.names,
                lane.tenant,
                part.first,
                part.last,
            )
        )
    within = _within(planned)
    streams, cuts = _streams(shape, chosen, within, lines)
    found.append(Task("streams", shape.streams.name, "streams", streams, shape.streams.names))
    if lines:
        return found
    if cuts:
        found.append(Task("cuts", "cut_streams", "cuts", cuts, (*shape.stream_key, *CUT_COLUMNS)))
    narrow = not chosen.is_whole or bool(chosen.tenants)
    found += [_whole_or_joined(shape, table, chosen, within, narrow) for table in shape.side]
    if documents and not narrow:
        found += [
            _everything(shape, table, role)
            for role, group in (("daemon", shape.daemon), ("documents", shape.documents))
            for table in group
        ]
    return found + [_everything(shape, table, "other") for table in carried]


def _line(table: Table, alias: str) -> str:
    pairs = ", ".join(f"{literal(name)}, {alias}.{identifier(name)}" for name in table.names)
    return f"json_build_object({pairs})"


def _everything(shape: Shape, table: Table, role: str) -> Task:
    return Task(
        f"{role}-{table.name}",
        table.name,
        role,
        f"SELECT {table.listed()} FROM {shape.qualified(table.name)}",
        table.names,
    )


def _within(planned: Sequence[Range]) -> list[str]:
    """Return the SQL condition that no event of a selection fails, and that spares the others: its numbers have an index, times none."""
    if not planned:
        return ["false"]
    return [f"e.seq_id BETWEEN {min(part.first for part in planned)} AND {max(part.last for part in planned)}"]


def _chosen(shape: Shape, chosen: Selection, within: Sequence[str]) -> str:
    """Return the SQL of a selection's streams: their key, first and last version, number of events, time of the last."""
    keys = ", ".join(f"e.{name} AS {key}" for name, key in zip(shape.event_key, shape.stream_key, strict=True))
    grouped = ", ".join(f"e.{name}" for name in shape.event_key)
    where = [*within, *ranges.conditions(chosen)]
    return (
        f"SELECT {keys}, min(e.version) AS first_version, max(e.version) AS last_version, count(*) AS events, "
        f"max(e.timestamp) AS last_time FROM {shape.qualified(shape.events.name)} e WHERE {' AND '.join(where)} GROUP BY {grouped}"
    )


def _streams(shape: Shape, chosen: Selection, within: Sequence[str], lines: bool) -> tuple[str, str]:
    """Return the queries of streams and of cut streams; the second is empty where no stream can be cut."""
    table = shape.qualified(shape.streams.name)
    if chosen.is_whole:
        where = ranges.conditions(Selection(tenants=chosen.tenants), "s")
        listed = _line(shape.streams, "s") if lines else shape.streams.listed("s.")
        return f"SELECT {listed} FROM {table} s" + (f" WHERE {' AND '.join(where)}" if where else ""), ""
    same = " AND ".join(
        f"s.{name} IS NOT DISTINCT FROM c.{name}" if name == "is_archived" else f"s.{name} = c.{name}"
        for name in shape.stream_key
    )
    # A stream whose end lies outside is as it was then: its version is that of its last event in the archive.
    told = {
        "version": "CASE WHEN s.version > c.last_version THEN c.last_version ELSE s.version END",
        "timestamp": 'CASE WHEN s.version > c.last_version THEN c.last_time ELSE s."timestamp" END',
    }
    values = {name: told.get(name, f"s.{identifier(name)}") for name in shape.streams.names}
    if lines:
        listed = "json_build_object(" + ", ".join(f"{literal(name)}, {value}" for name, value in values.items()) + ")"
    else:
        listed = ", ".join(f"{value} AS {identifier(name)}" for name, value in values.items())
    picked = f"WITH c AS ({_chosen(shape, chosen, within)})"
    inside = " AND ".join(f"x.{name} = c.{key}" for name, key in zip(shape.event_key, shape.stream_key, strict=True))
    before = (
        f"(SELECT count(*) FROM {shape.qualified(shape.events.name)} x WHERE {inside} AND x.version <= c.last_version)"
    )
    keys = ", ".join(f"c.{name}" for name in shape.stream_key)
    return (
        f"{picked} SELECT {listed} FROM {table} s JOIN c ON {same}{_empty(shape, chosen, lines)}",
        f"{picked} SELECT {keys}, c.first_version, c.last_version, c.events FROM c WHERE {before} > c.events",
    )


def _empty(shape: Shape, chosen: Selection, lines: bool) -> str:
    """Return the SQL that adds streams without any event, by the time at which they were made; nothing where that says nothing."""
    if chosen.types or chosen.archived == "only":
        return ""
    made = [text.replace('"timestamp"', "created") for text in ranges.conditions(chosen, "s")]
    inside = " AND ".join(
        f"x.{name} = s.{key}"
        for name, key in zip(shape.event_key, shape.stream_key, strict=True)
        if name != "is_archived"
    )
    none = f"NOT EXISTS (SELECT 1 FROM {shape.qualified(shape.events.name)} x WHERE {inside})"
    listed = _line(shape.streams, "s") if lines else shape.streams.listed("s.")
    where = " AND ".join(["coalesce(s.version, 0) = 0", none, *made])
    return f" UNION ALL SELECT {listed} FROM {shape.qualified(shape.streams.name)} s WHERE {where}"


def _whole_or_joined(shape: Shape, table: Table, chosen: Selection, within: Sequence[str], narrow: bool) -> Task:
    everything = _everything(shape, table, "side")
    if not narrow or table.name == TAG_VERSIONS:
        where = ranges.conditions(Selection(tenants=chosen.tenants), "t") if "tenant_id" in table.names else []
        query = f"SELECT {table.listed('t.')} FROM {shape.qualified(table.name)} t" + (
            f" WHERE {' AND '.join(where)}" if where else ""
        )
        return Task(everything.file, table.name, "side", query, table.names)
    events = shape.qualified(shape.events.name)
    if table in shape.tags:
        on = ["e.seq_id = t.seq_id"] + ["e.tenant_id = t.tenant_id"] * ("tenant_id" in table.names)
    else:
        stream = (
            "id"
            if table.name == IDENTITY
            else next(name for name in table.names if name in ("stream_id", "stream_key"))
        )
        on = [f"e.stream_id = t.{stream}"] + ["e.tenant_id = t.tenant_id"] * ("tenant_id" in table.names)
    where = [*on, *within, *ranges.conditions(chosen)]
    inside = f"EXISTS (SELECT 1 FROM {events} e WHERE {' AND '.join(where)})"
    query = f"SELECT {table.listed('t.')} FROM {shape.qualified(table.name)} t WHERE {inside}"
    return Task(everything.file, table.name, "side", query, table.names)


def unchanged_query(shape: Shape, lane: Lane, chosen: Selection, task: Task, oldest: int) -> str:
    """Return the SQL of ranges.unchanged_query for a range of events."""
    where = [
        f"e.seq_id BETWEEN {task.first} AND {task.last}",
        *ranges.conditions(chosen, has_tenants=not lane.tenant),
    ]
    return ranges.unchanged_query(shape.qualified(lane.table), where, oldest)


# Import

# Events are staged in `fresh`, from which those that the store has are taken out: a second table of them would cost as much again.
FRESH, FRESH_STREAMS, STAGE_STREAMS, STAGE_EMPTY, STAGE_CUTS = (
    "fresh",
    "fresh_streams",
    "stage_streams",
    "stage_empty",
    "stage_cuts",
)


def who_works_query(schema: str) -> str:
    """Return the SQL that tells of sessions which lead daemons or write: kind, process, user, application, since, and what of.

    A daemon that leads holds an advisory lock with one key of 64 bits, for its session or for a transaction; which projection it
    stands for can't be told from the number. An open transaction that writes holds ROW EXCLUSIVE.
    """
    return f"""
SELECT 'daemon', a.pid, a.usename, a.application_name, a.backend_start::timestamptz(0),
       ((l.classid::bigint << 32) | l.objid::bigint)::text
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.pid <> pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
UNION ALL
SELECT DISTINCT 'writer', a.pid, a.usename, a.application_name, a.xact_start::timestamptz(0), c.relname
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid JOIN pg_class c ON c.oid = l.relation
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.granted AND l.pid <> pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND n.nspname = {literal(schema)} AND c.relname IN ('mt_events', 'mt_streams') AND coalesce(a.application_name, '') <> 'holdfast-import'
ORDER BY 1, 2"""


def heartbeat_query(shape: Shape) -> str:
    """Return the SQL for names of projections whose daemon reported within a minute; empty where the store has no such column."""
    for table in shape.daemon:
        if table.name == PROGRESSION and "heartbeat" in table.names:
            return f"SELECT name FROM {shape.qualified(PROGRESSION)} WHERE heartbeat > now() - interval '1 minute' ORDER BY 1"
    return ""


def narrow_functions_query(schema: str) -> str:
    """Return the SQL that tells whether the store's append function counts in 32 bits (Marten 7, and 8 by default)."""
    return (
        "SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
        f"WHERE n.nspname = {literal(schema)} AND p.proname = 'mt_quick_append_events' AND p.prorettype = 'integer[]'::regtype"
    )


def staging(shape: Shape, table: str, stage: str, columns: Sequence[str]) -> str:
    """Return the SQL that makes a temporary table for rows of an archive, without any of the table's demands."""
    listed = ", ".join(map(identifier, columns))
    return f"CREATE TEMPORARY TABLE {stage} AS SELECT {listed} FROM {shape.qualified(table)} WITH NO DATA"


def _same_stream(shape: Shape, left: str, right: str) -> str:
    names = ["tenant_id"] if shape.tenancy == "conjoined" else []
    return " AND ".join([f"{left}.{name} = {right}.{name}" for name in [*names, "stream_id"]])


def stream_columns(shape: Shape, alias: str) -> str:
    """Return the columns that name an event's stream, archived or not."""
    names = ["tenant_id"] if shape.tenancy == "conjoined" else []
    return ", ".join(f"{alias}.{name}" for name in [*names, "stream_id"])


def staging_events(shape: Shape, columns: Sequence[str]) -> list[str]:
    """Return the SQL that makes the temporary table for an archive's events. place: their order in it, which is that of their numbers."""
    return [
        staging(shape, shape.events.name, FRESH, columns),
        f"ALTER TABLE {FRESH} ADD COLUMN place bigint GENERATED ALWAYS AS IDENTITY",
    ]


def index_statements(shape: Shape) -> list[str]:
    """Return the SQL that prepares staged rows for the planner: of wide values it needs to know nothing."""
    keys = ["place", "seq_id", "id", "version", *(["tenant_id"] if shape.tenancy == "conjoined" else []), "stream_id"]
    return [
        f"CREATE INDEX ON {FRESH} (place)",
        f"CREATE INDEX ON {STAGE_STREAMS} (id)",
        f"ANALYZE {FRESH} ({', '.join(keys)})",
        f"ANALYZE {STAGE_STREAMS}",
    ]


def known_statements(shape: Shape, append: bool) -> list[str]:
    """Return the SQL that takes out staged events which the store has. Numbers of failed appends mean nothing in append mode."""
    there = (
        f"SELECT 1 FROM {shape.qualified(shape.events.name)} t "
        f"WHERE {_same_stream(shape, 't', 'e')} AND t.version = e.version AND t.id = e.id"
    )
    kept = [f"DELETE FROM {FRESH} WHERE type = {literal(TOMBSTONE)}"] if append else []
    return [*kept, f"DELETE FROM {FRESH} e WHERE EXISTS ({there})"]


def fresh_streams_query(shape: Shape) -> str:
    """Return the SQL that makes the table of streams of fresh events, once what can't be taken is out."""
    return f"CREATE TEMPORARY TABLE {FRESH_STREAMS} AS SELECT DISTINCT {stream_columns(shape, 'f')} FROM {FRESH} f"


def batches_query(size: int) -> str:
    """Return the SQL for first and last place of each batch: places whose events the store has are not counted."""
    placed = f"SELECT place, (row_number() OVER (ORDER BY place) - 1) / {size} AS batch FROM {FRESH}"
    return f"SELECT min(place), max(place) FROM ({placed}) p GROUP BY batch ORDER BY 1"


def conflict_queries(shape: Shape, append: bool, cuts: bool) -> dict[str, str]:
    """Return the SQL that finds staged streams which can't be taken, by the reason in words. Columns: those of stream_columns."""
    events, streams = shape.qualified(shape.events.name), shape.qualified(shape.streams.name)
    columns = stream_columns(shape, "e")
    same = _same_stream(shape, "t", "e")
    of_stream = " AND ".join(
        [
            f"s.{'id' if name == 'stream_id' else name} = e.{name}"
            for name in (["tenant_id"] if shape.tenancy == "conjoined" else []) + ["stream_id"]
        ]
    )
    found = {
        "the store has another event under the same version": (
            f"SELECT DISTINCT {columns} FROM {FRESH} e JOIN {events} t ON {same} AND t.version = e.version AND t.id <> e.id "
            + (
                " AND coalesce(t.is_archived, false) = coalesce(e.is_archived, false)"
                if shape.partitions == "archived"
                else ""
            )
        ),
        "the stream is archived in the store and would continue": (
            f"SELECT DISTINCT {columns} FROM {FRESH} e WHERE NOT coalesce(e.is_archived, false) AND EXISTS (SELECT 1 FROM {streams} s "
            f"WHERE {of_stream} AND s.is_archived) AND EXISTS (SELECT 1 FROM {events} t WHERE {same} AND t.is_archived)"
        ),
    }
    if cuts:
        on = " AND ".join(
            f"c.{'id' if name == 'stream_id' else name} = e.{name}"
            for name in (["tenant_id"] if shape.tenancy == "conjoined" else []) + ["stream_id"]
        )
        found["the archive lacks earlier events of it, which the store lacks, too"] = (
            f"SELECT {columns} FROM {FRESH} e JOIN {STAGE_CUTS} c ON {on} "
            "CROSS JOIN LATERAL (SELECT count(*) AS n, min(t.version) AS lowest, max(t.version) AS highest "
            f"FROM {events} t WHERE {same}) t "
            f"GROUP BY {columns}, t.n, t.lowest, t.highest HAVING coalesce(t.n, 0) = 0 OR t.lowest > min(e.version) "
            "OR t.n + count(*) <> greatest(t.highest, max(e.version)) - t.lowest + 1"
        )
    return found


def new_streams_query(shape: Shape) -> str:
    """Return the SQL that counts staged streams of fresh events which the store does not have."""
    own = ["tenant_id"] if shape.tenancy == "conjoined" else []
    there = " AND ".join([f"t.{name} = f.{name}" for name in own] + ["t.id = f.stream_id"])
    return (
        f"SELECT count(*) FROM {FRESH_STREAMS} f WHERE NOT EXISTS "
        f"(SELECT 1 FROM {shape.qualified(shape.streams.name)} t WHERE {there})"
    )


def staging_empty(shape: Shape) -> str:
    """Return the SQL that makes the table of staged streams without any event, as long as all events are staged."""
    own = ["tenant_id"] if shape.tenancy == "conjoined" else []
    same = " AND ".join([f"e.{name} = s.{name}" for name in own] + ["e.stream_id = s.id"])
    none = f"NOT EXISTS (SELECT 1 FROM {FRESH} e WHERE {same})"
    return f"CREATE TEMPORARY TABLE {STAGE_EMPTY} AS SELECT s.* FROM {STAGE_STREAMS} s WHERE coalesce(s.version, 0) = 0 AND {none}"


def _empty_staged(shape: Shape) -> str:
    own = ["tenant_id"] if shape.tenancy == "conjoined" else []
    there = " AND ".join(f"t.{name} = s.{name}" for name in [*own, "id"])
    return (
        f"FROM {STAGE_EMPTY} s WHERE NOT EXISTS (SELECT 1 FROM {shape.qualified(shape.streams.name)} t WHERE {there})"
    )


def empty_streams_query(shape: Shape) -> str:
    """Return the SQL that counts staged streams without any event which the store does not have."""
    return f"SELECT count(*) {_empty_staged(shape)}"


def empty_statements(shape: Shape, columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the SQL that writes streams without any event, and what names them."""
    named = columns[shape.streams.name]
    listed, values = ", ".join(map(identifier, named)), ", ".join(f"s.{identifier(name)}" for name in named)
    found = []
    if IDENTITY in columns:
        names = ", ".join(map(identifier, columns[IDENTITY]))
        own = ", ".join(f"s.{identifier(name)}" for name in columns[IDENTITY])
        found.append(
            f"INSERT INTO {shape.qualified(IDENTITY)} ({names}) SELECT {own} {_empty_staged(shape)} ON CONFLICT DO NOTHING"
        )
    found.append(f"INSERT INTO {shape.qualified(shape.streams.name)} ({listed}) SELECT {values} {_empty_staged(shape)}")
    return found


def taken_query(shape: Shape) -> str:
    """Return the SQL for sequence numbers of fresh events under which the store has other ones."""
    events = shape.qualified(shape.events.name)
    tenant = " AND t.tenant_id = e.tenant_id" if shape.partitions == "tenants" else ""
    return f"SELECT e.seq_id FROM {FRESH} e JOIN {events} t ON t.seq_id = e.seq_id{tenant} AND t.id <> e.id ORDER BY 1 LIMIT 5"


def drop_streams(shape: Shape, query: str) -> str:
    """Return the SQL that takes the streams of a conflict out of what is to be written."""
    columns = stream_columns(shape, "f")
    return f"DELETE FROM {FRESH} f WHERE ({columns}) IN ({query})"


def setval(shape: Shape, lane: Lane, at_least: int) -> str:
    """Return the SQL that lifts a lane's sequence so that no number up to at_least is given again; it never goes down."""
    name = literal(shape.qualified(lane.sequence))
    return (
        f"SELECT setval({name}, greatest({at_least}, CASE WHEN is_called THEN last_value ELSE last_value - 1 END, 1)) "
        f"FROM {shape.qualified(lane.sequence)} WHERE {at_least} > 0"
    )


def high_water(shape: Shape, lane: Lane, at_least: int) -> str:
    """Return the SQL that lifts a lane's HighWaterMark: numbers below it are settled, so no daemon waits at their holes."""
    return (
        f"INSERT INTO {shape.qualified(PROGRESSION)} AS p (name, last_seq_id, last_updated) "
        f"VALUES ({literal(lane.high_water)}, {at_least}, now()) ON CONFLICT (name) DO UPDATE "
        "SET last_seq_id = greatest(p.last_seq_id, excluded.last_seq_id), last_updated = now() "
        "WHERE p.last_seq_id < excluded.last_seq_id"
    )


def batch_statements(
    shape: Shape, first: int, last: int, append: bool, columns: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return the SQL of one batch: fresh events with places first to last, their streams, identities and tags.

    Parameters: columns of the archive that the store has, by table. Numbers are drawn last and under a lock that keeps other writers
    out, so that no daemon sees a hole that is filled later.
    """
    events, streams = shape.qualified(shape.events.name), shape.qualified(shape.streams.name)
    conjoined = shape.tenancy == "conjoined"
    own = ["tenant_id"] if conjoined else []
    of_stream = " AND ".join([f"s.{name} = b.{name}" for name in own] + ["s.id = b.stream_id"])
    archived = (
        " AND coalesce(s.is_archived, false) = coalesce(b.is_archived, false)" if shape.partitions == "archived" else ""
    )
    grouped = ", ".join([*own, "stream_id", *(["is_archived"] if shape.partitions == "archived" else [])])
    ends = (
        f"SELECT {grouped}, max(version) AS version, max(timestamp) AS moment FROM batch "
        f"WHERE type <> {literal(TOMBSTONE)} GROUP BY {grouped}"
    )
    named = columns[shape.streams.name]
    listed = ", ".join(map(identifier, named))
    # A stream grows with its events: whatever the import dies of, version and events agree.
    values = ", ".join(
        {"version": "CASE WHEN b.version IS NULL THEN s.version ELSE least(s.version, b.version) END"}.get(
            name, f"s.{identifier(name)}"
        )
        for name in named
    )
    key = ", ".join(shape.stream_key)
    found = [
        _batch(shape, first, last, append),
        f"INSERT INTO {streams} ({listed}) SELECT {values} FROM {STAGE_STREAMS} s JOIN (SELECT DISTINCT {grouped} FROM batch) k ON "
        + " AND ".join([f"s.{name} = k.{name}" for name in own] + ["s.id = k.stream_id"])
        + (
            " AND coalesce(s.is_archived, false) = coalesce(k.is_archived, false)"
            if shape.partitions == "archived"
            else ""
        )
        + f" LEFT JOIN ({ends}) b ON {of_stream}{archived} ON CONFLICT ({key}) DO NOTHING",
    ]
    names = columns[shape.events.name]
    listed = ", ".join(map(identifier, names))
    drawn = ", ".join("new_seq" if append and name == "seq_id" else identifier(name) for name in names)
    found.append(f"INSERT INTO {events} ({listed}) SELECT {drawn} FROM batch ORDER BY place")
    found.append(
        f"UPDATE {streams} s SET version = b.version, timestamp = greatest(s.timestamp, b.moment) FROM ({ends}) b "
        f"WHERE {of_stream}{archived} AND s.version < b.version"
    )
    for table in shape.side:
        if table.name not in columns or table.name == TAG_VERSIONS:
            continue
        found.append(_side(shape, table, columns[table.name], append))
    return found


def _batch(shape: Shape, first: int, last: int, append: bool) -> str:
    """Return the SQL that makes the table of a batch; in append mode numbers are drawn with it, in the order of places."""
    picked = f"SELECT * FROM {FRESH} WHERE place BETWEEN {first} AND {last} ORDER BY place"
    if not append:
        return f"CREATE TEMPORARY TABLE batch ON COMMIT DROP AS {picked}"
    drawn = {lane.tenant: f"nextval({literal(shape.qualified(lane.sequence))})" for lane in shape.lanes}
    if shape.partitions == "tenants":
        cases = " ".join(f"WHEN {literal(tenant)} THEN {number}" for tenant, number in drawn.items())
        number = f"CASE f.tenant_id {cases} END"
    else:
        number = drawn[""]
    # The subquery orders the rows before numbers are drawn.
    return f"CREATE TEMPORARY TABLE batch ON COMMIT DROP AS SELECT f.*, {number} AS new_seq FROM ({picked}) f"


def _side(shape: Shape, table: Table, names: Sequence[str], append: bool) -> str:
    listed = ", ".join(map(identifier, names))
    stage = stage_of(table.name)
    tenant = ["t.tenant_id = b.tenant_id"] if "tenant_id" in names else []
    if table in shape.tags:
        values = ", ".join(
            {"seq_id": "b.new_seq" if append else "b.seq_id"}.get(name, f"t.{identifier(name)}") for name in names
        )
        on = " AND ".join(["t.seq_id = b.seq_id", *tenant])
        return (
            f"INSERT INTO {shape.qualified(table.name)} ({listed}) SELECT {values} FROM {stage} t JOIN batch b ON {on} "
            "ON CONFLICT DO NOTHING"
        )
    stream = "id" if table.name == IDENTITY else next(name for name in names if name in ("stream_id", "stream_key"))
    values = ", ".join(f"t.{identifier(name)}" for name in names)
    on = " AND ".join([f"t.{stream} = b.stream_id", *tenant])
    return (
        f"INSERT INTO {shape.qualified(table.name)} ({listed}) SELECT {values} FROM {stage} t "
        f"WHERE EXISTS (SELECT 1 FROM batch b WHERE {on}) ON CONFLICT DO NOTHING"
    )


def stage_of(table: str) -> str:
    """Return the name of the temporary table for rows of a table."""
    return identifier(f"stage_{table}"[:63])


def tag_versions(shape: Shape) -> str:
    """Return the SQL that carries the counters of appends per tag: none goes down, and one of a tag that got events goes up."""
    table = shape.qualified(TAG_VERSIONS)
    return (
        f"INSERT INTO {table} AS v (tag_table, tag_value, tenant_id, version) SELECT tag_table, tag_value, tenant_id, version "
        f"FROM {stage_of(TAG_VERSIONS)} ON CONFLICT (tag_table, tag_value, tenant_id) DO UPDATE "
        "SET version = greatest(v.version + 1, excluded.version)"
    )
