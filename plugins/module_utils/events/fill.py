# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Fills an empty store with an archive, several parts at a time, or without its keys."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

from ansible_collections.holdfast.persistence.plugins.module_utils.events import keys, settle
from ansible_collections.holdfast.persistence.plugins.module_utils.events.archive import Part
from ansible_collections.holdfast.persistence.plugins.module_utils.events.psql import Session, SqlError
from ansible_collections.holdfast.persistence.plugins.module_utils.events.shape import HIGH_WATER, PROGRESSION
from ansible_collections.holdfast.persistence.plugins.module_utils.events.target import NAMED, PROGRAM, Outcome, Target
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


def fill(target: Target, check: bool) -> Outcome:
    """Copy everything into an empty store."""
    if target.archive.cut:
        raise Refusal(
            f"archive {target.archive.name} begins in the middle of {target.archive.cut} streams, "
            "and the store has none of their earlier events. Nothing was written. "
            "Import the archive of the time before first, or export whole streams"
        )
    _require_new_progression(target)
    outcome = Outcome(inserted=target.total("events"), streams=target.total("streams"))
    outcome.documents = settle.documents_wish(target)
    if check:
        outcome.sequences = settle.numbers(target)
        return outcome
    try:
        if target.wish.rebuild_keys:
            with keys.rebuilt(target.session, target.shape):
                _copy_all(target, parallel=False)
        else:
            _copy_all(target, parallel=True)
    except SqlError as error:
        if error.state != "23505":
            raise
        raise Refusal(
            f"an application wrote to schema {target.shape.schema} during the import ({error})",
            "Stop it and run again: what exists already stays, what lacks is added",
        ) from error
    settle.finish(target, outcome)
    return outcome


def _require_new_progression(target: Target) -> None:
    """Raise Refusal where the store has no events, but its daemon says that it has seen some."""
    if not target.is_projected:
        return
    rows = target.session.rows(
        f"SELECT name, last_seq_id FROM {target.shape.qualified(PROGRESSION)} WHERE last_seq_id > 1 AND name NOT LIKE '{HIGH_WATER}%' "
        f"AND name NOT LIKE 'HighWaterAllocationFence%' ORDER BY 1 LIMIT {NAMED}"
    )
    if rows:
        told = ", ".join(f"{name} at {number}" for name, number in rows)
        raise Refusal(
            f"schema {target.shape.schema} has no events, but projections that have seen some ({told}): "
            f"they would leave imported ones out. Nothing was written. "
            f"Delete these rows of {PROGRESSION} and the projections' documents, then run again"
        )


def _copy_all(target: Target, parallel: bool) -> None:
    # A stream comes before its events, an event before its tags.
    for part in [*target.archive.of("streams"), *target.side("mt_streams_identity")]:
        target.copy(target.session, part)
    events = target.archive.of("events")
    if parallel:
        _copy_side_by_side(target, events)
    else:
        for part in events:
            target.copy(target.session, part)
    for part in target.archive.of("side", "other"):
        if part.table != "mt_streams_identity":
            target.copy(target.session, part)


def _copy_side_by_side(target: Target, parts: Sequence[Part]) -> None:
    """Copy parts, each in a transaction of its own."""
    waiting: queue.SimpleQueue[Part] = queue.SimpleQueue()
    for part in parts:
        waiting.put(part)
    trouble: list[BaseException] = []

    def one() -> None:
        try:
            with Session(target.reach, PROGRAM) as session:
                while not trouble:
                    try:
                        part = waiting.get_nowait()
                    except queue.Empty:
                        return
                    session.ask("BEGIN")
                    target.copy(session, part)
                    session.ask("COMMIT")
        except BaseException as error:
            trouble.append(error)

    threads = [threading.Thread(target=one) for _number in range(max(1, min(target.wish.parallel, len(parts))))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if trouble:
        raise trouble[0]
