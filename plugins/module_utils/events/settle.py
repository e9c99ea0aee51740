# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The end of every import: sequences and HighWaterMark, and the documents that come along."""

from __future__ import annotations

from ansible_collections.holdfast.persistence.plugins.module_utils.events import marten
from ansible_collections.holdfast.persistence.plugins.module_utils.events.shape import missing_columns
from ansible_collections.holdfast.persistence.plugins.module_utils.events.target import (
    APPEND,
    PRESERVE,
    Outcome,
    Target,
)


def numbers(target: Target) -> dict[str, int]:
    """Return what each sequence will have given at least: numbers of the source beyond its last event are spent, too."""
    whole = not any(target.archive.selection.get(name) for name in ("since", "until", "types"))
    highest = target.highest
    return {
        lane.tenant: max(highest.get(lane.tenant, 0), int(target.archive.sequences.get(lane.tenant, 0)) if whole else 0)
        for lane in target.shape.lanes
    }


def finish(target: Target, outcome: Outcome) -> None:
    """Set sequences and HighWaterMark, and carry documents. Last of all, so that no daemon sees a store that is half full."""
    session, shape = target.session, target.shape
    if target.wish.mode == PRESERVE:
        outcome.sequences = numbers(target)
    session.ask("BEGIN")
    if outcome.documents == "carried":
        for part in target.archive.of("documents", "daemon"):
            table = target.table(part.table)
            if part.rows and table is not None:
                if part.role == "daemon":
                    session.ask(f"DELETE FROM {shape.qualified(part.table)}")
                target.copy(session, part)
    if target.wish.mode == PRESERVE:
        for lane in shape.lanes:
            number = outcome.sequences.get(lane.tenant, 0)
            if not number:
                continue
            session.ask(marten.setval(shape, lane, number))
            if outcome.inserted and target.is_projected:
                highest = target.highest.get(lane.tenant, 0)
                if highest:
                    session.ask(marten.high_water(shape, lane, highest))
    session.ask("COMMIT")


def documents_wish(target: Target) -> str:
    """Return what becomes of documents and the daemon's rows, in words: `carried`, or why not."""
    parts = target.archive.of("documents", "daemon")
    if not parts:
        return "none in the archive"
    if not target.wish.documents or target.wish.mode == APPEND:
        return "left out: projections are built anew by the daemon"
    for part in parts:
        table = target.table(part.table)
        if part.rows and table is None:
            return f"left out: the store has no {part.table}; projections are built anew by the daemon"
        if part.rows and table is not None and missing_columns(part.columns, table):
            return f"left out: {missing_columns(part.columns, table)[0]}; projections are built anew by the daemon"
    for table in target.shape.documents:
        if target.session.ask(f"SELECT EXISTS (SELECT 1 FROM {target.shape.qualified(table.name)})") == "t":
            return f"left out: the store has documents ({table.name})"
    return "carried"
