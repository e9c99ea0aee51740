# SPDX-License-Identifier: Apache-2.0
"""The shape of a store, as its catalogue tells it."""

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.events.shape import (
    describe,
    differences,
    missing_columns,
    parse_shape,
    require_known,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

UUID, TEXT, BIGINT = "uuid", "character varying", "bigint"


def columns(**types):
    return [{"name": name, "type": kind, "required": False, "generated": False} for name, kind in types.items()]


def table(name, key, partition_key=None, parent=None, bound=None, **types):
    kind = "p" if partition_key else "r"
    row = {"name": name, "kind": kind, "partition_key": partition_key, "parent": parent, "bound": bound}
    return {**row, "columns": columns(**types), "key": list(key)}


def store(identity=UUID, tenanted=False, partition_key=None, more=(), sequences=("mt_events_sequence",)):
    tenant = ["tenant_id"] if tenanted else []
    events = {"seq_id": BIGINT, "id": UUID, "stream_id": identity, "version": BIGINT, "data": "jsonb", "type": TEXT}
    events |= {"timestamp": "timestamp with time zone", "tenant_id": TEXT, "is_archived": "boolean"}
    streams = {"id": identity, "type": TEXT, "version": BIGINT, "timestamp": "timestamp with time zone"}
    streams |= {"created": "timestamp with time zone", "tenant_id": TEXT, "is_archived": "boolean"}
    tables = [
        table("mt_events", ["seq_id"], partition_key, **events),
        table("mt_streams", [*tenant, "id"], partition_key, **streams),
        *more,
    ]
    return {"schema": "events", "tables": tables, "sequences": list(sequences)}


@pytest.mark.parametrize(("kind", "identity"), [(UUID, "guid"), (TEXT, "string"), ("text", "string")])
@pytest.mark.parametrize("tenanted", [False, True])
def test_identity_and_tenancy_are_told_by_types_and_keys(kind, identity, tenanted):
    shape = parse_shape(store(kind, tenanted), "events")
    assert (shape.identity, shape.tenancy) == (identity, "conjoined" if tenanted else "single")
    assert shape.stream_key == (("tenant_id", "id") if tenanted else ("id",))
    assert shape.event_key == (("tenant_id", "stream_id") if tenanted else ("stream_id",))
    assert [lane.sequence for lane in shape.lanes] == ["mt_events_sequence"]


def test_archived_partitions_are_part_of_every_key():
    shape = parse_shape(store(partition_key="LIST (is_archived)"), "events")
    assert shape.partitions == "archived"
    assert shape.stream_key == ("id", "is_archived")
    assert shape.number_key == ("seq_id", "is_archived")


def tenants(**suffixes):
    parts = [
        table(f"{parent}_{suffix}", [], parent=parent, bound=f"FOR VALUES IN ('{tenant}')")
        for tenant, suffix in suffixes.items()
        for parent in ("mt_events", "mt_streams")
    ]
    names = ["mt_events_sequence", *(f"mt_events_sequence_{suffix}" for suffix in suffixes.values())]
    return store(tenanted=True, partition_key="LIST (tenant_id)", more=parts, sequences=names)


def test_each_tenant_partition_has_a_lane_with_a_sequence_of_its_own():
    shape = parse_shape(tenants(north="t0", O="t1"), "events", {"north": "t0", "O": "t1"})
    assert [(lane.tenant, lane.table, lane.sequence, lane.high_water) for lane in shape.lanes] == [
        ("north", "mt_events_t0", "mt_events_sequence_t0", "HighWaterMark:north"),
        ("O", "mt_events_t1", "mt_events_sequence_t1", "HighWaterMark:O"),
    ]
    assert describe(shape)["tenants"] == ["north", "O"]


def test_a_partition_that_the_list_of_tenants_does_not_know_is_refused():
    with pytest.raises(Refusal, match=r"mt_events_t0 holds the tenant north, but mt_tenant_partitions says t9"):
        parse_shape(tenants(north="t0"), "events", {"north": "t9"})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"schema": None, "tables": [], "sequences": []}, "there is no schema events"),
        (
            {"schema": "events", "tables": [], "sequences": []},
            "no mt_events and no mt_streams: it holds no event store",
        ),
        (store("integer"), "streams are named by integer; known are"),
        (store(partition_key="HASH (id)"), "partitioned by HASH"),
        (store(sequences=()), "no sequence mt_events_sequence"),
    ],
)
def test_what_is_no_known_store_is_refused_in_words(data, words):
    with pytest.raises(Refusal, match=words.replace("(", r"\(")):
        parse_shape(data, "events")


def test_a_table_of_another_thing_called_mt_events_is_refused():
    data = store()
    data["tables"][0]["columns"] = columns(id=BIGINT)
    with pytest.raises(Refusal, match="mt_events has no column seq_id, stream_id"):
        parse_shape(data, "events")


def test_tables_are_carried_as_what_they_are_and_unknown_ones_refused_by_name():
    names = [
        "mt_event_tag_sku",
        "mt_dcb_tag_version",
        "mt_streams_identity",
        "mt_event_progression",
        "mt_doc_order",
        "mt_hilo",
        "mt_news",
    ]
    more = [table(name, ["id"], id=UUID) for name in names]
    shape = parse_shape(store(more=more), "events")
    assert [item.name for item in shape.side] == ["mt_dcb_tag_version", "mt_event_tag_sku", "mt_streams_identity"]
    assert [item.name for item in shape.daemon] == ["mt_event_progression"]
    assert [item.name for item in shape.documents] == ["mt_doc_order"]
    with pytest.raises(Refusal, match="does not know: mt_news"):
        require_known(shape, [])
    assert [item.name for item in require_known(shape, ["mt_news"])] == ["mt_news"]
    with pytest.raises(Refusal, match="carry names mt_old"):
        require_known(shape, ["mt_news", "mt_old"])


def test_generated_columns_are_left_to_the_table_that_makes_them():
    data = store()
    data["tables"][0]["columns"].append({"name": "made", "type": TEXT, "required": False, "generated": True})
    assert "made" not in parse_shape(data, "events").events.names


def test_another_identity_tenancy_or_partitioning_is_told_in_words():
    guid, string = parse_shape(store(), "events"), parse_shape(store(TEXT, tenanted=True), "events")
    assert differences(describe(guid), guid) == []
    assert differences(describe(guid), string) == [
        "identity: the archive has UUIDs (StreamIdentity.AsGuid), the store has strings (StreamIdentity.AsString)",
        "tenancy: the archive has single-tenant events, the store has conjoined tenants",
    ]
    apart = parse_shape(store(partition_key="LIST (is_archived)"), "events")
    assert differences(describe(guid), apart) == [
        "partitions: the archive has no partitions, the store has archived streams apart"
    ]


def test_tenants_that_the_store_has_no_partition_for_are_named():
    both = parse_shape(tenants(north="t0", south="t1"), "events", {"north": "t0", "south": "t1"})
    one = parse_shape(tenants(north="t0"), "events", {"north": "t0"})
    assert differences(describe(one), both) == []
    assert differences(describe(both), one) == [
        "the store has no partition for south: let the application add these tenants first"
    ]


def test_columns_that_the_store_lacks_or_demands_are_named():
    events = parse_shape(store(), "events").events
    strict = dataclasses.replace(
        events, columns=tuple(dataclasses.replace(item, required=item.name == "version") for item in events.columns)
    )
    assert missing_columns(["seq_id", "version", "snapshot"], strict) == []
    assert missing_columns(["seq_id", "bdata"], strict) == [
        "mt_events lacks the column bdata of the archive",
        "mt_events demands the column version, which the archive does not have",
    ]
