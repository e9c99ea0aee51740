# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Brings an archive of Marten's events into a store: an empty one fast, a living one batch by batch.

What exists already is known by tenant, stream, version and id, so that a second run, or one after a killed one, adds what lacks.
"""

from __future__ import annotations

from ansible_collections.holdfast.persistence.plugins.module_utils.events import archive as archives
from ansible_collections.holdfast.persistence.plugins.module_utils.events import fill, merge
from ansible_collections.holdfast.persistence.plugins.module_utils.events.archive import Archive
from ansible_collections.holdfast.persistence.plugins.module_utils.events.export import read_shape
from ansible_collections.holdfast.persistence.plugins.module_utils.events.psql import Reach, Session
from ansible_collections.holdfast.persistence.plugins.module_utils.events.target import (
    PRESERVE,
    PROGRAM,
    Outcome,
    Target,
    Wish,
    judge,
    require_alone,
    require_quiet,
    require_wide,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


def load(reach: Reach, archive: Archive, folder: str, wish: Wish, *, check: bool = False) -> Outcome:
    """Import an archive whose files were compared with their digests; with check only tell what would happen. Raises Refusal."""
    archives.require_importable(archive, archives.MARTEN)
    with Session(reach, PROGRAM) as session:
        require_alone(session, wish.schema)
        shape = read_shape(session, wish.schema)
        columns = judge(shape, archive)
        require_wide(session, shape, archive, wish)
        require_quiet(session, shape, wish)
        target = Target(reach, session, shape, archive, folder, wish, columns)
        events, streams = shape.qualified(shape.events.name), shape.qualified(shape.streams.name)
        empty = session.ask(f"SELECT NOT EXISTS (SELECT 1 FROM {events}) AND NOT EXISTS (SELECT 1 FROM {streams})")
        if wish.rebuild_keys and empty != "t":
            raise Refusal(
                f"keys are rebuilt in empty stores only, but {wish.schema}.mt_events or mt_streams has rows: leave rebuild_keys out"
            )
        if empty == "t" and wish.mode == PRESERVE:
            return fill.fill(target, check)
        return merge.merge(target, check)
