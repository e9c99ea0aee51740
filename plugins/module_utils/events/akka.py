# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Journals and snapshots of Akka.NET in PostgreSQL: their tables in both mappings, and the rules for them. No I/O.

Mapping `default` of Akka.Persistence.Sql: journal, tags, snapshot, with delete-compatibility-mode journal_metadata. Mapping
`postgresql`, which is also what Akka.Persistence.PostgreSql made: event_journal, journal_metadata or metadata, snapshot_store, tags as
`;a;b;` in a column. Columns are text or varchar(n), `ordering` an identity or a serial; seen of 1.5.73, read of earlier ones
(akkadotnet/Akka.Persistence.Sql src/Akka.Persistence.Sql/persistence.conf).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup.sql import identifier, literal
from ansible_collections.holdfast.persistence.plugins.module_utils.events.marten import Task
from ansible_collections.holdfast.persistence.plugins.module_utils.events.ranges import Range
from ansible_collections.holdfast.persistence.plugins.module_utils.events.shape import Column, Table
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

MAPPINGS = ("default", "postgresql")
SCHEMAS = {"default": ("public", "public"), "postgresql": ("akka_journal", "akka_snapshots")}
DENSE, KEEP = "dense", "keep"
STAGE, STAGE_TAGS, FRESH = "stage_journal", "stage_tags", "fresh"


@dataclass(frozen=True)
class Names:
    """Names of tables and columns in a mapping."""

    journal: str
    snapshots: str
    metadata: tuple[str, ...]
    number: str
    deleted: str
    payload: str
    needed: tuple[str, ...]
    snapshot_needed: tuple[str, ...]


NAMES = {
    "default": Names(
        "journal",
        "snapshot",
        ("journal_metadata",),
        "sequence_number",
        "deleted",
        "message",
        ("ordering", "created", "deleted", "persistence_id", "sequence_number", "message", "manifest", "identifier"),
        ("persistence_id", "sequence_number", "created", "snapshot", "manifest", "serializer_id"),
    ),
    "postgresql": Names(
        "event_journal",
        "snapshot_store",
        ("journal_metadata", "metadata"),
        "sequence_nr",
        "is_deleted",
        "payload",
        (
            "ordering",
            "created_at",
            "is_deleted",
            "persistence_id",
            "sequence_nr",
            "payload",
            "tags",
            "manifest",
            "serializer_id",
        ),
        ("persistence_id", "sequence_nr", "created_at", "payload", "manifest", "serializer_id"),
    ),
}


@dataclass(frozen=True)
class Journal:
    """A journal: mapping, schemas, tables; tags and metadata are None where the application has none. sequence: of `ordering`."""

    mapping: str
    schema: str
    snapshot_schema: str
    journal: Table
    snapshots: Table
    tags: Table | None
    metadata: Table | None
    sequence: str

    @property
    def names(self) -> Names:
        """Names of the mapping."""
        return NAMES[self.mapping]

    def qualified(self, table: str) -> str:
        """Return a table as SQL takes it."""
        schema = self.snapshot_schema if table == self.snapshots.name else self.schema
        return f"{identifier(schema)}.{identifier(table)}"

    @property
    def tables(self) -> list[Table]:
        """All tables."""
        return [table for table in (self.journal, self.snapshots, self.tags, self.metadata) if table is not None]


def schemas(mapping: str, schema: str = "", snapshot_schema: str = "") -> tuple[str, str]:
    """Return the schemas of journal and snapshots. Raises Refusal for an unknown mapping."""
    if mapping not in MAPPINGS:
        raise Refusal(f"mapping is {mapping!r}; allowed are {', '.join(MAPPINGS)}")
    usual = SCHEMAS[mapping]
    return schema or usual[0], snapshot_schema or (usual[1] if not schema or mapping == "postgresql" else schema)


def catalogue_query(schema: str, snapshot_schema: str) -> str:
    """Return the SQL that tells columns, keys and the sequence of `ordering` of all tables in two schemas, as one JSON text."""
    names = f"({literal(schema)}, {literal(snapshot_schema)})"
    return f"""
SELECT coalesce(json_agg(t), '[]') FROM (
  SELECT n.nspname AS schema, c.relname AS name,
    (SELECT json_agg(json_build_object('name', a.attname, 'type', format_type(a.atttypid, NULL),
        'required', a.attnotnull AND NOT a.atthasdef AND a.attidentity = '') ORDER BY a.attnum)
     FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') AS columns,
    (SELECT json_agg(a.attname ORDER BY k.place) FROM pg_index x
     CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY AS k(number, place)
     JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number WHERE x.indrelid = c.oid AND x.indisprimary) AS key,
    CASE WHEN EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'ordering')
      THEN pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), 'ordering') END AS sequence
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname IN {names} AND c.relkind = 'r') t"""


def parse(rows: Sequence[Mapping[str, Any]], mapping: str, schema: str, snapshot_schema: str) -> Journal:
    """Return the journal in two schemas. Raises Refusal where tables are missing or are no journal."""
    names = NAMES[mapping]
    journal = _require(rows, schema, names.journal, names.needed, mapping)
    snapshots = _require(rows, snapshot_schema, names.snapshots, names.snapshot_needed, mapping)
    metadata = [row for name in names.metadata for row in rows if (row["schema"], row["name"]) == (schema, name)]
    if len(metadata) > 1:
        raise Refusal(
            f"schema {schema} has {' and '.join(row['name'] for row in metadata)}: which one the application uses can't be told",
            "Drop the one that it does not name (metadata.table-name)",
        )
    tags = [row for row in rows if (row["schema"], row["name"]) == (schema, "tags")] if mapping == "default" else []
    if tags and "ordering_id" not in [column["name"] for column in tags[0]["columns"]]:
        raise Refusal(f"{schema}.tags has no column ordering_id: it is not a table of Akka.Persistence.Sql")
    if not journal["sequence"]:
        raise Refusal(f"{schema}.{names.journal}: ordering has no sequence, so that no actor could write")
    return Journal(
        mapping,
        schema,
        snapshot_schema,
        _table(journal),
        _table(snapshots),
        _table(tags[0]) if tags else None,
        _table(metadata[0]) if metadata else None,
        journal["sequence"],
    )


def _require(
    rows: Sequence[Mapping[str, Any]], schema: str, name: str, needed: Sequence[str], mapping: str
) -> Mapping[str, Any]:
    found = next((row for row in rows if (row["schema"], row["name"]) == (schema, name)), None)
    if found is None:
        there = ", ".join(sorted(row["name"] for row in rows if row["schema"] == schema)[:8]) or "nothing"
        raise Refusal(
            f"there is no table {schema}.{name}, which the mapping {mapping} has; schema {schema} holds {there}",
            "Name mapping and schemas as the application has them",
        )
    lacking = [column for column in needed if column not in [item["name"] for item in found["columns"]]]
    if lacking:
        raise Refusal(
            f"{schema}.{name} has no column {', '.join(lacking)}: it is not a journal of Akka in the mapping {mapping}"
        )
    return found


def _table(row: Mapping[str, Any]) -> Table:
    columns = tuple(Column(column["name"], column["type"], column["required"]) for column in row["columns"])
    return Table(row["name"], columns, tuple(row["key"] or ()))


def describe(journal: Journal) -> dict[str, Any]:
    """Return a journal as an archive tells it."""
    return {"mapping": journal.mapping, "schema": journal.schema, "snapshot_schema": journal.snapshot_schema}


def tasks(journal: Journal, planned: Sequence[Range]) -> list[Task]:
    """Return the files of an export: the journal by ranges of ordering, then tags, metadata and snapshots whole."""
    found = [
        Task(
            f"journal-{number:06}",
            journal.journal.name,
            "journal",
            f"SELECT {journal.journal.listed('e.')} FROM {journal.qualified(journal.journal.name)} e "
            f"WHERE e.ordering BETWEEN {part.first} AND {part.last} ORDER BY e.ordering",
            journal.journal.names,
            "",
            part.first,
            part.last,
        )
        for number, part in enumerate(planned, 1)
    ]
    for role, table in (("tags", journal.tags), ("metadata", journal.metadata), ("snapshots", journal.snapshots)):
        if table is not None:
            query = f"SELECT {table.listed()} FROM {journal.qualified(table.name)}"
            found.append(Task(role, table.name, role, query, table.names))
    return found


# Import


def _same(journal: Journal, left: str, right: str) -> str:
    number = journal.names.number
    return f"{left}.persistence_id = {right}.persistence_id AND {left}.{number} = {right}.{number}"


def fresh_query(journal: Journal) -> str:
    """Return the SQL that makes the table of staged rows which the journal lacks."""
    table = journal.qualified(journal.journal.name)
    there = f"SELECT 1 FROM {table} t WHERE {_same(journal, 't', 'e')}"
    return f"CREATE TEMPORARY TABLE {FRESH} AS SELECT e.* FROM {STAGE} e WHERE NOT EXISTS ({there})"


def conflict_queries(journal: Journal) -> dict[str, str]:
    """Return the SQL that finds ids whose staged events can't be taken, by the reason in words.

    A row that is flagged as deleted keeps a number and may have lost its content: it agrees with whatever has the number.
    """
    names, table = journal.names, journal.qualified(journal.journal.name)
    return {
        "the journal has another event under the same number": (
            f"SELECT DISTINCT e.persistence_id FROM {STAGE} e JOIN {table} t ON {_same(journal, 't', 'e')} "
            f"WHERE NOT e.{names.deleted} AND NOT t.{names.deleted} AND t.{names.payload} IS DISTINCT FROM e.{names.payload}"
        ),
        "the journal has later events, and lacks earlier ones of the archive": (
            f"SELECT DISTINCT e.persistence_id FROM {FRESH} e JOIN (SELECT persistence_id, max({names.number}) AS last FROM {table} "
            f"GROUP BY persistence_id) t USING (persistence_id) WHERE e.{names.number} < t.last "
        ),
    }


def number_statements(journal: Journal, ordering: str, places: tuple[int, int]) -> list[str]:
    """Return the SQL that makes the batch of fresh rows with places first to last; dense numbers are drawn with it, in that order."""
    first, last = places
    number = f"nextval({literal(journal.sequence)})" if ordering == DENSE else "f.ordering"
    picked = f"SELECT * FROM {FRESH} WHERE place BETWEEN {first} AND {last} ORDER BY place"
    return [
        f"CREATE TEMPORARY TABLE batch ON COMMIT DROP AS SELECT f.*, {number} AS new_ordering FROM ({picked}) f",
    ]


def insert_statements(journal: Journal, columns: Sequence[str], tag_columns: Sequence[str]) -> list[str]:
    """Return the SQL that writes a batch and its tags. `ordering` may be GENERATED ALWAYS, which an INSERT has to override."""
    listed = ", ".join(map(identifier, columns))
    table = journal.qualified(journal.journal.name)
    drawn = ", ".join("new_ordering" if name == "ordering" else identifier(name) for name in columns)
    found = [f"INSERT INTO {table} ({listed}) OVERRIDING SYSTEM VALUE SELECT {drawn} FROM batch ORDER BY place"]
    if journal.tags is not None and tag_columns:
        named = ", ".join(map(identifier, tag_columns))
        values = ", ".join({"ordering_id": "b.new_ordering"}.get(name, f"t.{identifier(name)}") for name in tag_columns)
        found.append(
            f"INSERT INTO {journal.qualified(journal.tags.name)} ({named}) SELECT {values} FROM {STAGE_TAGS} t "
            "JOIN batch b ON b.ordering = t.ordering_id"
        )
    return found


def holes_query(journal: Journal) -> str:
    """Return the SQL that counts numbers of `ordering` which no row has: a reader by tag waits for them."""
    return f"SELECT coalesce(max(ordering) - min(ordering) + 1 - count(*), 0) FROM {journal.qualified(journal.journal.name)}"


def lost_query(journal: Journal) -> str:
    """Return the SQL for ids whose newest snapshot lies above every number that the journal knows of them.

    Such an actor recovers, but writes numbers again that it has used. metadata counts: it keeps the number where rows are deleted.
    """
    names = journal.names
    known = [
        f"SELECT persistence_id, max({names.number}) AS n FROM {journal.qualified(journal.journal.name)} GROUP BY 1"
    ]
    if journal.metadata is not None:
        number = "sequence_nr" if "sequence_nr" in journal.metadata.names else "sequence_number"
        known.append(f"SELECT persistence_id, max({number}) FROM {journal.qualified(journal.metadata.name)} GROUP BY 1")
    return (
        f"SELECT s.persistence_id FROM (SELECT persistence_id, max({names.number}) AS n "
        f"FROM {journal.qualified(journal.snapshots.name)} GROUP BY 1) s "
        f"LEFT JOIN (SELECT persistence_id, max(n) AS n FROM ({' UNION ALL '.join(known)}) k GROUP BY 1) j USING (persistence_id) "
        "WHERE j.n IS NULL OR j.n < s.n ORDER BY 1 LIMIT 1000"
    )
