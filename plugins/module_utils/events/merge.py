# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Adds what a living store lacks of an archive, batch by batch: whatever it dies of, what was written is whole."""

from __future__ import annotations

from ansible_collections.holdfast.persistence.plugins.module_utils.backup.sql import identifier
from ansible_collections.holdfast.persistence.plugins.module_utils.events import marten, settle, stage
from ansible_collections.holdfast.persistence.plugins.module_utils.events.psql import SqlError
from ansible_collections.holdfast.persistence.plugins.module_utils.events.shape import TAG_VERSIONS
from ansible_collections.holdfast.persistence.plugins.module_utils.events.target import APPEND, Outcome, Target
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

LOCK_SECONDS = 30


def merge(target: Target, check: bool) -> Outcome:
    """Add what a store lacks of an archive."""
    session, shape = target.session, target.shape
    append = target.wish.mode == APPEND
    stage.copy(target)
    for statement in marten.known_statements(shape, append):
        session.ask(statement)
    outcome = Outcome()
    stage.resolve(target, outcome, append)
    session.ask(marten.fresh_streams_query(shape))
    outcome.inserted = session.count(f"SELECT count(*) FROM {marten.FRESH}")
    outcome.present = target.total("events") - outcome.inserted
    empty = session.count(marten.empty_streams_query(shape))
    outcome.streams = session.count(marten.new_streams_query(shape)) + empty
    outcome.rebuild = [] if append else stage.passed_by(target)
    outcome.documents = settle.documents_wish(target)
    if check:
        outcome.sequences = settle.numbers(target) if not append else {}
        return outcome
    if outcome.inserted:
        _write(target, append)
    if empty:
        session.ask("BEGIN")
        for statement in marten.empty_statements(shape, target.columns):
            session.ask(statement)
        session.ask("COMMIT")
    settle.finish(target, outcome)
    return outcome


def _write(target: Target, append: bool) -> None:
    """Write fresh events in the order of their numbers, a transaction for each batch."""
    session, shape = target.session, target.shape
    for table in shape.side:
        if table.name in target.columns and table.name != TAG_VERSIONS:
            key = (
                "seq_id"
                if table in shape.tags
                else next(name for name in table.names if name in ("id", "stream_id", "stream_key"))
            )
            session.ask(f"CREATE INDEX ON {marten.stage_of(table.name)} ({key})")
    _lift(target, append)
    for first, last in session.rows(marten.batches_query(target.wish.batch)):
        session.ask("BEGIN")
        _shut_out(target)
        for statement in marten.batch_statements(shape, int(first), int(last), append, target.columns):
            _do(target, statement)
        session.ask("COMMIT")
    _settle_streams(target)
    if any(table.name == TAG_VERSIONS for table in shape.side) and TAG_VERSIONS in target.columns:
        session.ask(marten.tag_versions(shape))


def _lift(target: Target, append: bool) -> None:
    """Lift the sequences before the first batch: what is numbered meanwhile lies above the archive, and above what is there.

    A sequence may stand below the store's own events: Marten 8 makes it anew where archived partitions are switched on.
    """
    for lane in target.shape.lanes:
        there = target.session.count(f"SELECT coalesce(max(seq_id), 0) FROM {target.shape.qualified(lane.table)}")
        highest = max(there, 0 if append else target.highest.get(lane.tenant, 0))
        if highest:
            target.session.ask(marten.setval(target.shape, lane, highest))


def _shut_out(target: Target) -> None:
    """Keep writers out until the transaction ends; readers are not."""
    target.session.ask(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
    tables = f"{target.shape.qualified(target.shape.streams.name)}, {target.shape.qualified(target.shape.events.name)}"
    try:
        target.session.ask(f"LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE")
    except SqlError as error:
        if error.state != "55P03":
            raise
        raise Refusal(
            f"a transaction has been writing events for more than {LOCK_SECONDS} s, so the import stopped between two batches. "
            "Whatever was written is whole; end that transaction and run again"
        ) from error


def _do(target: Target, statement: str) -> None:
    try:
        target.session.ask(statement)
    except SqlError as error:
        if error.state != "23505":
            raise
        raise Refusal(
            f"an application wrote to a stream of archive {target.archive.name} while it was imported ({error}). "
            "The batch was rolled back; what was written before is whole. Run again: the stream is then a conflict, or continues"
        ) from error


def _settle_streams(target: Target) -> None:
    """Give streams that end as they do in the archive what the archive says of them beside their version."""
    shape = target.shape
    own = [
        name
        for name in target.columns[shape.streams.name]
        if name not in (*shape.stream_key, "version", "tenant_id", "id")
    ]
    pairs = ", ".join(f"{identifier(name)} = s.{identifier(name)}" for name in own)
    differs = " OR ".join(f"t.{identifier(name)} IS DISTINCT FROM s.{identifier(name)}" for name in own)
    same = " AND ".join(f"t.{name} = s.{name}" for name in shape.stream_key)
    fresh = f"SELECT 1 FROM {marten.FRESH_STREAMS} f WHERE f.stream_id = s.id" + (
        " AND f.tenant_id = s.tenant_id" if shape.tenancy == "conjoined" else ""
    )
    target.session.ask(
        f"UPDATE {shape.qualified(shape.streams.name)} t SET {pairs} FROM {marten.STAGE_STREAMS} s "
        f"WHERE {same} AND t.version = s.version AND ({differs}) AND EXISTS ({fresh})"
    )
