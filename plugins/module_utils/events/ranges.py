# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Which events an export takes, and how they are cut into parts that are read side by side. No I/O."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.backup.sql import identifier, literal
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

PART_EVENTS = 200_000
LEAST_EVENTS = 20_000
ARCHIVED = ("include", "exclude", "only")


@dataclass(frozen=True)
class Selection:
    """Which events are meant: those from since on and before until (ISO 8601, UTC; empty for no limit), of these tenants, of these
    event types (empty for all), archived ones or not (`include`, `exclude`, `only`)."""

    since: str = ""
    until: str = ""
    tenants: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    archived: str = "include"

    @property
    def is_whole(self) -> bool:
        """Whether all events of the tenants it names are meant: then no stream is cut."""
        return not (self.since or self.until or self.types) and self.archived == "include"


@dataclass(frozen=True)
class Range:
    """Sequence numbers of a lane, both ends included."""

    lane: int
    first: int
    last: int


def moment(name: str, text: str) -> str:
    """Return a time in UTC as PostgreSQL and archives take it. Raises Refusal for what is not a time, or has no offset."""
    if not text:
        return ""
    try:
        found = datetime.datetime.fromisoformat(text.strip().replace("Z", "+00:00").replace("z", "+00:00"))
    except ValueError:
        raise Refusal(f"{name} is {text!r}; allowed is a time such as 2026-01-31T12:00:00Z") from None
    if found.tzinfo is None:
        raise Refusal(
            f"{name} is {text!r}, which has no offset from UTC; allowed is a time such as 2026-01-31T12:00:00Z"
        )
    return found.astimezone(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def selection(
    since: str = "", until: str = "", tenants: Iterable[str] = (), types: Iterable[str] = (), archived: str = "include"
) -> Selection:
    """Return a selection from what an operator wrote. Raises Refusal."""
    made = Selection(moment("since", since), moment("until", until), tuple(tenants), tuple(types), archived)
    if made.since and made.until and made.since >= made.until:
        raise Refusal(f"since ({made.since}) is not before until ({made.until}): the range is empty")
    if archived not in ARCHIVED:
        raise Refusal(f"archived is {archived!r}; allowed are {', '.join(ARCHIVED)}")
    return made


def conditions(chosen: Selection, alias: str = "e", has_tenants: bool = True) -> list[str]:
    """Return the SQL conditions on events of a selection, each whole in itself."""
    found = []
    if chosen.since:
        found.append(f"{alias}.{identifier('timestamp')} >= {literal(chosen.since)}::timestamptz")
    if chosen.until:
        found.append(f"{alias}.{identifier('timestamp')} < {literal(chosen.until)}::timestamptz")
    if chosen.tenants and has_tenants:
        found.append(f"{alias}.tenant_id IN ({', '.join(map(literal, chosen.tenants))})")
    if chosen.types:
        found.append(f"{alias}.type IN ({', '.join(map(literal, chosen.types))})")
    if chosen.archived != "include":
        found.append(f"coalesce({alias}.is_archived, false) IS {'TRUE' if chosen.archived == 'only' else 'FALSE'}")
    return found


def part_size(events: int, most: int, parallel: int) -> int:
    """Return how many events a file holds, at most: small exports are cut, too, so that every worker has two files or more."""
    return min(most, max(LEAST_EVENTS, -(-events // (2 * max(1, parallel)))))


def plan(bounds: Sequence[tuple[int, int] | None], events: Sequence[int], size: int = PART_EVENTS) -> list[Range]:
    """Return ranges that hold every number of each lane once, in rising order, about size events each.

    Parameters: bounds, first and last number of each lane, None for an empty one; events, about how many there are: numbers that
    were never given, or whose events are gone, make a range longer, not fuller.
    """
    found = []
    for lane, (ends, number) in enumerate(zip(bounds, events, strict=True)):
        if ends is None:
            continue
        first, last = ends
        parts = max(1, -(-max(number, 1) // size))
        step = max(1, -(-(last - first + 1) // parts))
        found += [Range(lane, start, min(start + step - 1, last)) for start in range(first, last + 1, step)]
    return found


def unchanged_query(table: str, where: Sequence[str], oldest: int) -> str:
    """Return the SQL that tells of rows, called e, how many there are and whether all were written before a transaction.

    oldest: the oldest transaction that ran when the rows were read. What is older was visible then, and stays as it was: an update
    makes a new row, a deletion makes them fewer. xmin has 32 bits; a number above the current one is of the epoch before.
    """
    epoch = "(now.x >> 32 << 32) - CASE WHEN e.xmin::text::bigint > (now.x & 4294967295) THEN 4294967296 ELSE 0 END"
    return (
        "WITH now AS (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS x) "
        "SELECT count(*), coalesce(bool_and(e.xmin::text::bigint < 3 OR "
        f"e.xmin::text::bigint + {epoch} < {oldest}), true) FROM {table} e, now WHERE {' AND '.join(where)}"
    )
