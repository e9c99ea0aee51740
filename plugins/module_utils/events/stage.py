# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What of an archive a living store lacks: its rows in temporary tables, compared with the store's."""

from __future__ import annotations

from ansible_collections.holdfast.persistence.plugins.module_utils.events import marten
from ansible_collections.holdfast.persistence.plugins.module_utils.events.shape import PROGRESSION
from ansible_collections.holdfast.persistence.plugins.module_utils.events.target import NAMED, REFUSE, Outcome, Target
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


def copy(target: Target) -> None:
    session, shape = target.session, target.shape
    session.ask("SET temp_buffers = '32MB'")
    session.ask("SET work_mem = '64MB'")
    for statement in marten.staging_events(shape, target.columns.get(shape.events.name, shape.events.names)):
        session.ask(statement)
    session.ask(
        marten.staging(
            shape,
            shape.streams.name,
            marten.STAGE_STREAMS,
            target.columns.get(shape.streams.name, shape.streams.names),
        )
    )
    for part in target.archive.of("events"):
        target.copy(session, part, marten.FRESH)
    for part in target.archive.of("streams"):
        target.copy(session, part, marten.STAGE_STREAMS)
    for part in target.archive.of("cuts"):
        listed = ", ".join(f"s.{name}" for name in shape.stream_key)
        numbers = ", ".join(f"0::bigint AS {name}" for name in marten.CUT_COLUMNS)
        session.ask(
            f"CREATE TEMPORARY TABLE {marten.STAGE_CUTS} AS SELECT {listed}, {numbers} "
            f"FROM {shape.qualified(shape.streams.name)} s WITH NO DATA"
        )
        target.copy(session, part, marten.STAGE_CUTS)
    for part in target.archive.of("side"):
        if part.table in target.columns:
            stage = marten.stage_of(part.table)
            session.ask(marten.staging(shape, part.table, stage, part.columns))
            target.copy(session, part, stage)
    for statement in marten.index_statements(shape):
        session.ask(statement)
    session.ask(marten.staging_empty(shape))


def resolve(target: Target, outcome: Outcome, append: bool) -> None:
    """Take out streams that can't be taken, or refuse. Raises Refusal."""
    session, shape = target.session, target.shape
    for reason, query in marten.conflict_queries(shape, append, bool(target.archive.of("cuts"))).items():
        found = [" ".join(row) for row in session.rows(f"SELECT * FROM ({query}) q ORDER BY 1 LIMIT 1000")]
        if not found:
            continue
        if target.wish.on_conflict == REFUSE:
            more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
            raise Refusal(
                f"archive {target.archive.name} does not go with the store: {reason}: stream {', '.join(found[:NAMED])}{more}. "
                "Nothing was written. Import with on_conflict skip to leave such streams as they are"
            )
        session.ask(marten.drop_streams(shape, query))
        outcome.skipped += [f"{name}: {reason}" for name in found]
    taken = [] if append else session.rows(marten.taken_query(shape))
    if taken:
        told = ", ".join(row[0] for row in taken)
        raise Refusal(
            f"the store has other events under sequence numbers of archive {target.archive.name} ({told}). Nothing was written. "
            "Import with the mode append, which draws new numbers"
        )


def passed_by(target: Target) -> list[str]:
    """Return projections that are past numbers which are to be written: they won't see these events."""
    if not target.is_projected:
        return []
    rows = target.session.rows(
        f"SELECT name FROM {target.shape.qualified(PROGRESSION)} WHERE last_seq_id >= (SELECT min(seq_id) FROM {marten.FRESH}) "
        f"AND name NOT LIKE 'HighWater%' ORDER BY 1"
    )
    return [row[0] for row in rows]
