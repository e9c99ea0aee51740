# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Keys and indexes of a store that are dropped while it is filled, and built again in the same transaction.

Whatever the import dies of, the transaction goes back, and every key is there as before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ansible_collections.holdfast.persistence.plugins.module_utils.backup.sql import literal
from ansible_collections.holdfast.persistence.plugins.module_utils.events.psql import Session, SqlError
from ansible_collections.holdfast.persistence.plugins.module_utils.events.shape import Shape
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


def _definitions(shape: Shape) -> str:
    """Return the SQL for constraints and indexes of events, streams and tags: order of making, name, table, how it is made."""
    names = ", ".join(literal(table.name) for table in (shape.events, shape.streams, *shape.tags))
    return f"""
SELECT json_agg(d ORDER BY d.turn, d.name) FROM (
  SELECT CASE contype WHEN 'f' THEN 3 ELSE 1 END AS turn, k.conname AS name, k.conrelid::regclass::text AS tab,
    'ALTER TABLE ' || k.conrelid::regclass || ' ADD CONSTRAINT ' || quote_ident(k.conname) || ' ' || pg_get_constraintdef(k.oid) AS make,
    'ALTER TABLE ' || k.conrelid::regclass || ' DROP CONSTRAINT ' || quote_ident(k.conname) AS undo
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = {literal(shape.schema)} AND c.relname IN ({names}) AND k.contype IN ('p', 'u', 'f') AND k.conparentid = 0
  UNION ALL
  SELECT 2, i.relname, x.indrelid::regclass::text, pg_get_indexdef(i.oid), 'DROP INDEX ' || i.oid::regclass
  FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = {literal(shape.schema)} AND c.relname IN ({names}) AND NOT EXISTS (
    SELECT 1 FROM pg_constraint k WHERE k.conindid = i.oid AND k.contype IN ('p', 'u', 'x'))) d"""


@contextlib.contextmanager
def rebuilt(session: Session, shape: Shape) -> Iterator[None]:
    """Give a transaction in which a store has no keys; at its end they are built as they were. Raises Refusal."""
    if shape.partitions != "none":
        raise Refusal(
            f"keys can't be rebuilt where tables are partitioned ({shape.partitions}): leave rebuild_keys out"
        )
    session.ask("BEGIN")
    session.ask("SET LOCAL lock_timeout = '30s'")
    before = session.data(_definitions(shape)) or []
    try:
        for item in reversed(before):
            session.ask(item["undo"])
    except SqlError as error:
        if error.state == "42501":
            raise Refusal(
                f"rebuild_keys needs the owner of the tables in schema {shape.schema}, and the user that imports is another. "
                "Nothing was written. Leave it out, or name the owner as session_role"
            ) from error
        raise
    yield
    session.ask("SET LOCAL maintenance_work_mem = '256MB'")
    for item in before:
        session.ask(item["make"])
    if (session.data(_definitions(shape)) or []) != before:
        raise Refusal(f"keys of schema {shape.schema} could not be built as they were. Everything was rolled back")
    session.ask("COMMIT")
