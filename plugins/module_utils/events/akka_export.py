# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Writes archives of Akka's journals."""

from __future__ import annotations

from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.events import akka, ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.events import archive as archives
from ansible_collections.holdfast.persistence.plugins.module_utils.events.akka import Journal
from ansible_collections.holdfast.persistence.plugins.module_utils.events.export import (
    PROGRAM,
    Made,
    Order,
    Place,
    Writer,
    existing,
    tables_told,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.events.marten import Task
from ansible_collections.holdfast.persistence.plugins.module_utils.events.psql import Reach, Session


def read(session: Session, mapping: str, schema: str, snapshot_schema: str) -> Journal:
    """Return a journal. Raises Refusal where there is none in this mapping."""
    first, second = akka.schemas(mapping, schema, snapshot_schema)
    return akka.parse(session.data(akka.catalogue_query(first, second)), mapping, first, second)


def export(reach: Reach, place: Place, order: Order, *, check: bool = False) -> Made | dict[str, Any]:
    """Write the archive of a journal, or with check return what it would hold. Raises Refusal."""
    archives.check_name(order.name)
    there = None if place.again else existing(place.backup_dir, order, archives.AKKA, reach.database)
    if there:
        return there
    with Session(reach, PROGRAM) as holder:
        holder.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        journal = read(holder, order.more["mapping"], order.schema, order.more["snapshot_schema"])
        table = journal.qualified(journal.journal.name)
        first, last, number = holder.rows(f"SELECT min(ordering), max(ordering), count(*) FROM {table}")[0]
        planned = ranges.plan([(int(first), int(last)) if first else None], [int(number)], order.part)
        tasks = akka.tasks(journal, planned)
        if check:
            return {"shape": akka.describe(journal), "events": int(number), "parts": [task.file for task in tasks]}
        told = {
            "kind": archives.AKKA,
            "shape": {**akka.describe(journal), "lost": [row[0] for row in holder.rows(akka.lost_query(journal))]},
            "tables": tables_told(journal.tables, tasks),
            "sequences": {"": holder.count(given(journal))},
        }

        def unchanged(task: Task, rows: int, oldest: int) -> bool:
            if task.role != "journal":
                return False
            where = [f"e.ordering BETWEEN {task.first} AND {task.last}"]
            number, old = holder.rows(ranges.unchanged_query(table, where, oldest))[0]
            return int(number) == rows and old == "t"

        return Writer(reach, place, order, holder, told, unchanged).write(tasks)


def given(journal: Journal) -> str:
    """Return the SQL for the last number that a journal's sequence has given."""
    return f"SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM {journal.sequence}"
