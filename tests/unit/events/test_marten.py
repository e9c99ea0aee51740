# SPDX-License-Identifier: Apache-2.0
"""What an export of Marten's store reads, and what an import sets."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.events import marten, psql, ranges, target
from ansible_collections.holdfast.persistence.plugins.module_utils.events.ranges import Range, Selection
from ansible_collections.holdfast.persistence.plugins.module_utils.events.shape import Column, Lane, Shape, Table
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


def table(name, *columns, key=()):
    return Table(name, tuple(Column(column, "text") for column in columns), key)


SHAPE = Shape(
    schema="events",
    identity="guid",
    tenancy="conjoined",
    partitions="tenants",
    events=table(
        "mt_events", "seq_id", "id", "stream_id", "version", "data", "type", "timestamp", "tenant_id", "is_archived"
    ),
    streams=table("mt_streams", "tenant_id", "id", "type", "version", "timestamp", "created", "is_archived"),
    lanes=(
        Lane("north", "mt_events_t0", "mt_events_sequence_t0"),
        Lane("south", "mt_events_t1", "mt_events_sequence_t1"),
    ),
    side=(table("mt_dcb_tag_version", "tag_table"), table("mt_event_tag_sku", "value", "seq_id")),
    daemon=(table("mt_event_progression", "name", "last_seq_id"),),
    documents=(table("mt_doc_order", "id"),),
)


def tasks(chosen, *, documents=True, lines=False):
    planned = [Range(number, 1, 9) for number in range(len(marten.lanes_of(SHAPE, chosen)))]
    return marten.tasks(SHAPE, chosen, planned, documents=documents, carried=[], lines=lines)


def test_a_whole_store_goes_with_documents_and_a_part_of_it_never():
    whole = [task.file for task in tasks(Selection())]
    assert whole == [
        "events-000001", "events-000002", "streams", "side-mt_dcb_tag_version", "side-mt_event_tag_sku",
        "daemon-mt_event_progression", "documents-mt_doc_order",
    ]  # fmt: skip
    assert [task.role for task in tasks(Selection(), documents=False)] == [
        "events",
        "events",
        "streams",
        "side",
        "side",
    ]
    assert [task.role for task in tasks(Selection(tenants=("south",)))] == ["events", "streams", "side", "side"]
    assert [task.role for task in tasks(Selection(since="2026-01-01T00:00:00Z"))] == [
        "events",
        "events",
        "streams",
        "cuts",
        "side",
        "side",
    ]
    assert [task.role for task in tasks(Selection(), lines=True)] == ["events", "events", "streams"]


def test_every_query_names_its_columns_and_its_table():
    for task in [*tasks(Selection()), *tasks(ranges.selection(since="2026-01-01T00:00:00Z", types=["a"]))]:
        assert "*" not in task.query.replace("count(*)", "")
        assert '"events".' in task.query
        # psql takes a query of \\copy on one line.
        assert psql._flat(task.query) == task.query


def test_events_of_a_tenant_come_from_its_own_partition_and_sequence():
    (events, *_rest) = tasks(Selection(tenants=("south",)))
    assert (events.lane, '"mt_events_t1"' in events.query, "tenant_id IN" in events.query) == ("south", True, False)
    assert '"mt_events_sequence_t1"' in marten.sequence_query(SHAPE, SHAPE.lanes[1])


def test_a_value_with_a_line_break_is_refused_and_not_changed():
    with pytest.raises(Refusal, match="holds a line break"):
        psql._flat("SELECT 1 FROM t WHERE tenant_id IN ('a\nb')")


def test_sequences_and_marks_never_go_down():
    lane = SHAPE.lanes[0]
    assert "greatest(86," in marten.setval(SHAPE, lane, 86)
    assert "WHERE p.last_seq_id < excluded.last_seq_id" in marten.high_water(SHAPE, Lane("north", "t", "s"), 86)
    assert "'HighWaterMark:north'" in marten.high_water(SHAPE, Lane("north", "t", "s"), 86)


def test_numbers_are_drawn_by_tenant_and_only_to_append():
    columns = {
        "mt_events": SHAPE.events.names,
        "mt_streams": SHAPE.streams.names,
        "mt_event_tag_sku": ("value", "seq_id"),
    }
    kept = " ".join(marten.batch_statements(SHAPE, 1, 10, False, columns))
    drawn = " ".join(marten.batch_statements(SHAPE, 1, 10, True, columns))
    assert "nextval" not in kept
    assert "new_seq" not in kept
    assert drawn.count("nextval") == 2
    assert 'SELECT t."value", b.new_seq FROM' in drawn
    assert "t.seq_id = b.seq_id" in drawn


def test_numbers_are_drawn_while_rows_come_in_order():
    """No statement gives numbers to rows that stand already: joins of a table without statistics made that slow."""
    (made, *others) = marten.batch_statements(SHAPE, 1, 10, True, {"mt_events": ("seq_id",), "mt_streams": ("id",)})
    assert "WHERE place BETWEEN 1 AND 10 ORDER BY place) f" in made
    assert not [text for text in others if text.startswith("UPDATE batch")]


def test_a_range_of_time_is_read_by_its_numbers():
    """Times have no index in Marten's store, numbers do: what goes with the events of a range is looked for among theirs."""
    chosen = ranges.selection(since="2026-01-01T00:00:00Z")
    planned = [Range(0, 5, 9), Range(1, 3, 7)]
    found = marten.tasks(SHAPE, chosen, planned, documents=False, carried=[], lines=False)
    for role in ("streams", "cuts"):
        assert "e.seq_id BETWEEN 3 AND 9" in next(task.query for task in found if task.role == role)
    (tags,) = (task.query for task in found if task.table == "mt_event_tag_sku")
    assert "e.seq_id BETWEEN 3 AND 9" in tags
    nothing = marten.tasks(SHAPE, chosen, [], documents=False, carried=[], lines=False)
    assert "WHERE false AND" in next(task.query for task in nothing if task.role == "streams")


@pytest.mark.parametrize("name", ["inserted", "streams"])
def test_an_outcome_that_wrote_something_is_a_change(name):
    assert not target.Outcome().changed
    assert target.Outcome(**{name: 1}).changed
    assert target.Outcome(documents="carried").changed
