# SPDX-License-Identifier: Apache-2.0
"""Tables of Akka's journals, in both mappings."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.events import akka
from ansible_collections.holdfast.persistence.plugins.module_utils.events.ranges import Range
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


def row(schema, name, columns, key, sequence=None):
    told = [{"name": column, "type": "text", "required": False} for column in columns]
    return {"schema": schema, "name": name, "columns": told, "key": list(key), "sequence": sequence}


def default(*more, sequence="public.journal_ordering_seq"):
    names = akka.NAMES["default"]
    return [
        row("public", "journal", [*names.needed, "writer_uuid"], ["ordering"], sequence),
        row("public", "snapshot", names.snapshot_needed, ["persistence_id", "sequence_number"]),
        *more,
    ]


def postgresql(metadata="journal_metadata"):
    names = akka.NAMES["postgresql"]
    return [
        row("akka_journal", "event_journal", names.needed, ["ordering"], "akka_journal.event_journal_ordering_seq"),
        row("akka_journal", metadata, ["persistence_id", "sequence_nr"], ["sequence_nr", "persistence_id"]),
        row("akka_snapshots", "snapshot_store", names.snapshot_needed, ["persistence_id", "sequence_nr"]),
    ]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (("default",), ("public", "public")),
        (("default", "actors"), ("actors", "actors")),
        (("default", "actors", "shots"), ("actors", "shots")),
        (("postgresql",), ("akka_journal", "akka_snapshots")),
        (("postgresql", "actors"), ("actors", "akka_snapshots")),
    ],
)
def test_schemas_are_the_usual_ones_of_a_mapping(given, found):
    assert akka.schemas(*given) == found


def test_an_unknown_mapping_is_refused():
    with pytest.raises(Refusal, match="mapping is 'odd'; allowed are default, postgresql"):
        akka.schemas("odd")


def test_tags_and_metadata_are_there_where_the_application_has_them():
    journal = akka.parse(default(), "default", "public", "public")
    assert (journal.tags, journal.metadata) == (None, None)
    tags = row("public", "tags", ["ordering_id", "tag"], ["ordering_id", "tag"])
    assert akka.parse(default(tags), "default", "public", "public").tags.name == "tags"
    for name in ("journal_metadata", "metadata"):
        found = akka.parse(postgresql(name), "postgresql", "akka_journal", "akka_snapshots")
        assert found.metadata.name == name
        assert found.qualified("snapshot_store") == '"akka_snapshots"."snapshot_store"'


@pytest.mark.parametrize(
    ("rows", "mapping", "words"),
    [
        (default(), "postgresql", r"there is no table public\.event_journal.*holds journal, snapshot"),
        ([], "default", "schema public holds nothing"),
        (default()[:1], "default", r"there is no table public\.snapshot"),
        (default(sequence=None), "default", "ordering has no sequence"),
        (default(row("public", "tags", ["tag"], ["tag"])), "default", "tags has no column ordering_id"),
        (
            [row("public", "journal", ["id"], ["id"]), *default()[1:]],
            "default",
            "journal has no column ordering, created",
        ),
    ],
)
def test_what_is_no_journal_is_refused_in_words(rows, mapping, words):
    with pytest.raises(Refusal, match=words):
        akka.parse(rows, mapping, "public", "public")


def test_two_tables_of_metadata_are_refused():
    both = [*postgresql(), row("akka_journal", "metadata", ["persistence_id", "sequence_nr"], ["persistence_id"])]
    with pytest.raises(
        Refusal, match="has journal_metadata and metadata: which one the application uses can't be told"
    ):
        akka.parse(both, "postgresql", "akka_journal", "akka_snapshots")


def test_an_export_has_the_journal_in_ranges_and_all_else_whole():
    journal = akka.parse(postgresql(), "postgresql", "akka_journal", "akka_snapshots")
    found = akka.tasks(journal, [Range(0, 1, 10), Range(0, 11, 20)])
    assert [(task.file, task.role, task.first, task.last) for task in found] == [
        ("journal-000001", "journal", 1, 10),
        ("journal-000002", "journal", 11, 20),
        ("metadata", "metadata", 0, 0),
        ("snapshots", "snapshots", 0, 0),
    ]
