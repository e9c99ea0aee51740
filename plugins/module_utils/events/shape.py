# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The shape of a Marten event store, read from PostgreSQL's catalogue. No I/O.

Marten has no table that says how a store was configured: identity, tenancy and partitions are told by types and keys of mt_streams
and mt_events (Marten 9.58.0 and 9.29.0, seen; 7.40 and 8.37, read in their source: src/Marten/Events/Schema).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup.sql import identifier, literal
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

EVENTS = "mt_events"
STREAMS = "mt_streams"
SEQUENCE = "mt_events_sequence"
PROGRESSION = "mt_event_progression"
HIGH_WATER = "HighWaterMark"
TENANT_PARTITIONS = "mt_tenant_partitions"
IDENTITY = "mt_streams_identity"
TAG_VERSIONS = "mt_dcb_tag_version"
TAG_PREFIX = "mt_event_tag_"
NATURAL_KEY_PREFIX = "mt_natural_key_"
DOCUMENT_PREFIX = "mt_doc_"
# What the daemon keeps of its own work; it goes with the documents of the projections.
DAEMON_TABLES = (PROGRESSION, "mt_event_projection_floors", "mt_high_water_skips")
# Of documents, not of events; they hold no row that an event store needs.
FOREIGN = frozenset({"mt_hilo"})
IDENTITIES = {"uuid": "guid", "character varying": "string", "text": "string"}
# Columns that no release ever read or wrote; stores begun before Marten 9 still have them.
DEAD_COLUMNS = frozenset({"snapshot", "snapshot_version"})
_NEEDED = {
    EVENTS: ("seq_id", "id", "stream_id", "version", "data", "type", "timestamp", "is_archived"),
    STREAMS: ("id", "type", "version", "timestamp", "created", "is_archived"),
}
_TENANT_BOUND = re.compile(r"^FOR VALUES IN \((.*)\)$")


@dataclass(frozen=True)
class Column:
    """A column of a table: name; type as PostgreSQL writes it; whether a row must bring a value."""

    name: str
    type: str
    required: bool = False


@dataclass(frozen=True)
class Table:
    """A table of a store: name, columns in their physical order, names of the primary key's columns in the key's order."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(column.name for column in self.columns)

    def listed(self, prefix: str = "") -> str:
        """The columns as SQL lists them, always by name: stores that were upgraded have them in another order."""
        return ", ".join(f"{prefix}{identifier(name)}" for name in self.names)


@dataclass(frozen=True)
class Lane:
    """Events that share one sequence: those of the store, or of one tenant that has a partition of its own.

    tenant: its id, empty for the whole store. table: where its events lie. sequence: what numbers them.
    """

    tenant: str
    table: str
    sequence: str
    streams: str = STREAMS

    @property
    def high_water(self) -> str:
        """Name of the progression row up to which the daemon has seen a lane."""
        return f"{HIGH_WATER}:{self.tenant}" if self.tenant else HIGH_WATER


@dataclass(frozen=True)
class Shape:
    """What a store is.

    identity: `guid` or `string`. tenancy: `single` or `conjoined`. partitions: `none`, `archived` or `tenants`. side: tables that
    belong to events and streams (tags, tag versions, identities, natural keys). daemon: tables of the daemon. documents: tables of
    projections and documents in the same schema. other: tables called mt_ that nobody here knows.
    """

    schema: str
    identity: str
    tenancy: str
    partitions: str
    events: Table
    streams: Table
    lanes: tuple[Lane, ...]
    side: tuple[Table, ...] = ()
    daemon: tuple[Table, ...] = ()
    documents: tuple[Table, ...] = ()
    other: tuple[Table, ...] = ()

    @property
    def stream_key(self) -> tuple[str, ...]:
        """Columns of mt_streams that name one stream; archived partitions keep an active and an archived stream of one id."""
        names = ["id"]
        if self.tenancy == "conjoined":
            names.insert(0, "tenant_id")
        if self.partitions == "archived":
            names.append("is_archived")
        return tuple(names)

    @property
    def event_key(self) -> tuple[str, ...]:
        """Columns of mt_events by which an event names its stream, in the order of stream_key."""
        return tuple("stream_id" if name == "id" else name for name in self.stream_key)

    @property
    def number_key(self) -> tuple[str, ...]:
        """Columns that make a sequence number unique."""
        extra = {"tenants": ("tenant_id",), "archived": ("is_archived",)}.get(self.partitions, ())
        return ("seq_id", *extra)

    @property
    def tags(self) -> tuple[Table, ...]:
        """Tables of tags, keyed by sequence number."""
        return tuple(table for table in self.side if table.name.startswith(TAG_PREFIX))

    def qualified(self, table: str) -> str:
        """Return a table of the store as SQL takes it."""
        return f"{identifier(self.schema)}.{identifier(table)}"


def catalogue_query(schema: str) -> str:
    """Return the SQL that tells everything about the tables called mt_ in a schema, as one JSON text."""
    return f"""
SELECT json_build_object(
  'schema', (SELECT nspname FROM pg_namespace WHERE nspname = {literal(schema)}),
  'tables', coalesce((SELECT json_agg(t ORDER BY t.name) FROM (
    SELECT c.relname AS name, c.relkind AS kind, pg_get_partkeydef(c.oid) AS partition_key,
      (SELECT i.inhparent::regclass::oid::text FROM pg_inherits i WHERE i.inhrelid = c.oid) AS parent_oid,
      (SELECT p.relname FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent WHERE i.inhrelid = c.oid) AS parent,
      pg_get_expr(c.relpartbound, c.oid) AS bound,
      (SELECT json_agg(json_build_object('name', a.attname, 'type', format_type(a.atttypid, NULL),
          'required', a.attnotnull AND NOT a.atthasdef AND a.attidentity = '', 'generated', a.attgenerated <> '')
          ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
      (SELECT json_agg(a.attname ORDER BY k.place) FROM pg_index x
         CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY AS k(number, place)
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number
         WHERE x.indrelid = c.oid AND x.indisprimary) AS key
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = {literal(schema)} AND c.relkind IN ('r', 'p') AND c.relname LIKE 'mt\\_%') t), '[]'),
  'sequences', coalesce((SELECT json_agg(c.relname ORDER BY c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = {literal(schema)} AND c.relkind = 'S' AND c.relname LIKE 'mt\\_events\\_sequence%'), '[]'))
"""


def parse_shape(data: Mapping[str, Any], schema: str, tenants: Mapping[str, str] | None = None) -> Shape:
    """Return the shape of a store.

    Parameters: data, what catalogue_query answered; tenants, rows of mt_tenant_partitions: suffix of a partition by tenant.
    Raises Refusal for a schema that is missing, no store, or of a shape that nobody here knows.
    """
    if not data.get("schema"):
        raise Refusal(f"there is no schema {schema}; name the one that holds mt_events")
    rows = {row["name"]: row for row in data["tables"]}
    missing = [name for name in (EVENTS, STREAMS) if name not in rows]
    if missing:
        raise Refusal(f"schema {schema} has no {' and no '.join(missing)}: it holds no event store of Marten")
    tables = {name: _table(row) for name, row in rows.items() if not row["parent"]}
    for name, needed in _NEEDED.items():
        lacking = [column for column in needed if column not in tables[name].names]
        if lacking:
            raise Refusal(f"{schema}.{name} has no column {', '.join(lacking)}: it is not a table of Marten")
    events, streams = tables.pop(EVENTS), tables.pop(STREAMS)
    partitions = _partitions(schema, rows[EVENTS], rows[STREAMS])
    lanes = _lanes(schema, partitions, rows, data["sequences"], tenants or {})
    kinds = {name: _kind(name) for name in tables if name != TENANT_PARTITIONS and name not in FOREIGN}
    of_kind = {
        kind: tuple(tables[name] for name in sorted(kinds) if kinds[name] == kind)
        for kind in ("side", "daemon", "document", "other")
    }
    return Shape(
        schema=schema,
        identity=_identity(schema, events, streams),
        tenancy="conjoined" if "tenant_id" in streams.key else "single",
        partitions=partitions,
        events=events,
        streams=streams,
        lanes=lanes,
        side=of_kind["side"],
        daemon=of_kind["daemon"],
        documents=of_kind["document"],
        other=of_kind["other"],
    )


def _table(row: Mapping[str, Any]) -> Table:
    columns = tuple(
        Column(column["name"], column["type"], column["required"])
        for column in row["columns"] or []
        if not column["generated"]
    )
    return Table(row["name"], columns, tuple(row["key"] or ()))


def _kind(name: str) -> str:
    if name in (IDENTITY, TAG_VERSIONS) or name.startswith((TAG_PREFIX, NATURAL_KEY_PREFIX)):
        return "side"
    if name in DAEMON_TABLES:
        return "daemon"
    return "document" if name.startswith(DOCUMENT_PREFIX) else "other"


def _identity(schema: str, events: Table, streams: Table) -> str:
    types = {
        column.type
        for table, name in ((streams, "id"), (events, "stream_id"))
        for column in table.columns
        if column.name == name
    }
    if len(types) != 1 or not types <= set(IDENTITIES):
        raise Refusal(
            f"{schema}: streams are named by {' and '.join(sorted(types))}; known are {' and '.join(sorted(IDENTITIES))}"
        )
    return IDENTITIES[types.pop()]


def _partitions(schema: str, events: Mapping[str, Any], streams: Mapping[str, Any]) -> str:
    known = {None: "none", "LIST (is_archived)": "archived", "LIST (tenant_id)": "tenants"}
    keys = {events["partition_key"], streams["partition_key"]}
    if len(keys) != 1 or not keys <= set(known):
        found = ", ".join(sorted(f"by {key}" if key else "not at all" for key in keys))
        raise Refusal(
            f"{schema}: mt_events and mt_streams are partitioned {found}; known are not at all, by LIST (is_archived), by LIST (tenant_id)"
        )
    return known[keys.pop()]


def _lanes(
    schema: str, partitions: str, rows: Mapping[str, Any], sequences: Sequence[str], tenants: Mapping[str, str]
) -> tuple[Lane, ...]:
    if partitions != "tenants":
        if SEQUENCE not in sequences:
            raise Refusal(
                f"schema {schema} has no sequence {SEQUENCE}, so no application can append there "
                "(Marten 8 drops it where archived partitions are switched on, marten#3904): let the application make it, then run again"
            )
        return (Lane("", EVENTS, SEQUENCE),)
    lanes = []
    for name, row in sorted(rows.items()):
        if row["parent"] != EVENTS:
            continue
        tenant = _tenant_of(schema, row)
        suffix = name.removeprefix(f"{EVENTS}_")
        if tenants.get(tenant) != suffix:
            raise Refusal(
                f"{schema}.{name} holds the tenant {tenant}, but {TENANT_PARTITIONS} says "
                f"{tenants.get(tenant) or 'nothing'} of it: have the application repair its partitions first"
            )
        sequence = f"{SEQUENCE}_{suffix}"
        if sequence not in sequences:
            raise Refusal(f"tenant {tenant} has the partition {schema}.{name}, but there is no sequence {sequence}")
        if f"{STREAMS}_{suffix}" not in rows:
            raise Refusal(f"tenant {tenant} has the partition {schema}.{name}, but there is no {STREAMS}_{suffix}")
        lanes.append(Lane(tenant, name, sequence, f"{STREAMS}_{suffix}"))
    return tuple(lanes)


def _tenant_of(schema: str, row: Mapping[str, Any]) -> str:
    match = _TENANT_BOUND.match(row["bound"] or "")
    values = re.findall(r"'((?:[^']|'')*)'", match[1]) if match else []
    if len(values) != 1:
        raise Refusal(f"{schema}.{row['name']} is a partition {row['bound']}; known are partitions of one tenant each")
    return values[0].replace("''", "'")


def require_known(shape: Shape, carried: Sequence[str]) -> tuple[Table, ...]:
    """Return the tables that nobody here knows and that are to be carried as they are. Raises Refusal for others."""
    unknown = [table.name for table in shape.other if table.name not in carried]
    if unknown:
        raise Refusal(
            f"schema {shape.schema} has tables that this release does not know: {', '.join(unknown)}. Nothing was written. "
            "Name them in `carry` to have all their rows carried as they are"
        )
    there = {table.name for table in shape.other}
    absent = [name for name in carried if name not in there]
    if absent:
        raise Refusal(f"carry names {', '.join(absent)}, which schema {shape.schema} does not have as unknown tables")
    return shape.other


def describe(shape: Shape) -> dict[str, Any]:
    """Return a shape as an archive tells it: what has to be the same in a store that takes the archive."""
    return {
        "schema": shape.schema,
        "identity": shape.identity,
        "tenancy": shape.tenancy,
        "partitions": shape.partitions,
        "tenants": [lane.tenant for lane in shape.lanes if lane.tenant],
    }


def differences(archived: Mapping[str, Any], target: Shape) -> list[str]:
    """Return why a store can't take events of another shape, in words; empty where it can."""
    words = {
        "identity": {"guid": "UUIDs (StreamIdentity.AsGuid)", "string": "strings (StreamIdentity.AsString)"},
        "tenancy": {"single": "single-tenant events", "conjoined": "conjoined tenants"},
        "partitions": {
            "none": "no partitions",
            "archived": "archived streams apart",
            "tenants": "a partition for each tenant",
        },
    }
    found = []
    for name, told in words.items():
        here = getattr(target, name)
        if archived[name] != here:
            found.append(
                f"{name}: the archive has {told.get(archived[name], archived[name])}, the store has {told[here]}"
            )
    if not found and target.partitions == "tenants":
        absent = sorted(set(archived["tenants"]) - {lane.tenant for lane in target.lanes})
        if absent:
            found.append(
                f"the store has no partition for {', '.join(absent)}: let the application add these tenants first"
            )
    return found


def missing_columns(names: Sequence[str], target: Table) -> list[str]:
    """Return why a table can't take rows with these columns: columns it lacks, columns it demands beside them."""
    known = set(target.names)
    lacking = [name for name in names if name not in known and name not in DEAD_COLUMNS]
    demanded = [column.name for column in target.columns if column.required and column.name not in names]
    found = [f"{target.name} lacks the column {name} of the archive" for name in lacking]
    return found + [f"{target.name} demands the column {name}, which the archive does not have" for name in demanded]
