# SPDX-License-Identifier: Apache-2.0
"""Journals of Akka.NET go out and come in again, with what keeps an actor's number."""

from __future__ import annotations

import re
import signal
import time

import pytest
from event_stores import DATA, JOURNALS
from run_module import fail_module, run_module, start

# The schemas are in every dump; the first of these mappings leaves them empty.
PLAIN = {"default": "default-plain", "postgresql": "postgresql-plain"}
NAMES = {"default": ("public.journal", "sequence_number"), "postgresql": ("akka_journal.event_journal", "sequence_nr")}


def mapping_of(journal):
    return journal.partition("/")[2].partition("-")[0]


def run(server, module, name, folder, journal, *, check=False, **more):
    return run_module(module, server.arguments(name, folder, "a", mapping=mapping_of(journal), **more), check=check)


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_journal_comes_back_whole_and_a_second_run_adds_nothing(server, tmp_path, journal):
    server.make("source", journal)
    server.make("target", journal, rows=False)
    made = run(server, "akka_export", "source", tmp_path, journal)
    assert made["changed"]
    assert made["shape"]["lost"] == []
    assert not run(server, "akka_export", "source", tmp_path, journal)["changed"]
    planned = run(server, "akka_import", "target", tmp_path, journal, check=True)
    assert all(rows == [] for rows in server.tables("target").values())
    done = run(server, "akka_import", "target", tmp_path, journal)
    assert (planned["inserted"], planned["snapshots"], planned["moved"]) == (
        done["inserted"],
        done["snapshots"],
        done["moved"],
    )
    assert (done["holes"], done["lost"]) == (0, [])
    table, number = NAMES[mapping_of(journal)]
    assert without_ordering(server, "target", table, number) == without_ordering(server, "source", table, number)
    others = (table.partition(".")[2], "tags")
    assert server.tables("target", *others) == server.tables("source", *others)
    if mapping_of(journal) == "default":
        tags = f"SELECT j.persistence_id, j.{number}, t.tag FROM tags t JOIN {table} j ON j.ordering = t.ordering_id ORDER BY 1, 2, 3"
        assert server.query("target", tags) == server.query("source", tags)
        assert len(server.query("target", tags)) > 0
    assert server.query("target", f"SELECT min(ordering), max(ordering) - count(*) FROM {table}") == [(1, 0)]
    again = run(server, "akka_import", "target", tmp_path, journal)
    assert (again["changed"], again["inserted"], again["snapshots"], again["metadata"]) == (False, 0, 0, 0)


def without_ordering(server, name, table, number):
    """Return a journal's rows in its order, the numbers of that order left out."""
    rows = server.query(name, f"SELECT to_jsonb(j) - 'ordering' FROM {table} j ORDER BY ordering")
    return [row[0] for row in rows]


@pytest.mark.parametrize("journal", ["akka-sql-1.5.73/default-plain", "akka-sql-1.5.73/postgresql-plain"])
def test_an_import_that_keeps_ordering_keeps_offsets_and_tells_the_holes(server, tmp_path, journal):
    server.make("source", journal)
    server.make("target", journal, rows=False)
    run(server, "akka_export", "source", tmp_path, journal)
    done = run(server, "akka_import", "target", tmp_path, journal, ordering="keep")
    assert server.tables("target") == server.tables("source")
    assert server.sequences("target") == server.sequences("source")
    assert (done["moved"], done["holes"] > 0) == (False, True)


def test_the_flagged_row_of_an_emptied_actor_is_kept(server, tmp_path):
    journal = "akka-sql-1.5.73/default-plain"
    server.make("source", journal)
    server.make("target", journal, rows=False)
    run(server, "akka_export", "source", tmp_path, journal)
    run(server, "akka_import", "target", tmp_path, journal)
    emptied = "SELECT sequence_number, deleted FROM journal WHERE persistence_id = 'account-0013'"
    assert server.query("target", emptied) == server.query("source", emptied)
    assert [row[1] for row in server.query("target", emptied)] == [True]


def test_an_actor_whose_snapshot_lies_above_its_journal_is_named(server, tmp_path):
    journal = "akka-sql-1.5.73/default-plain"
    server.make("source", journal)
    (name, number) = server.query(
        "source", "SELECT persistence_id, max(sequence_number) FROM snapshot GROUP BY 1 ORDER BY 1 LIMIT 1"
    )[0]
    server.run("source", f"DELETE FROM journal WHERE persistence_id = '{name}' AND sequence_number >= {number}")
    assert run(server, "akka_export", "source", tmp_path, journal)["shape"]["lost"] == [name]


def test_an_actor_that_went_its_own_way_is_refused_or_left_out(server, tmp_path):
    journal = "akka-sql-1.5.73/postgresql-plain"
    server.make("source", journal)
    server.make("target", journal)
    run(server, "akka_export", "source", tmp_path, journal)
    server.run(
        "target",
        "UPDATE akka_journal.event_journal SET payload = 'x' WHERE persistence_id = 'account-0000' AND sequence_nr = 2",
    )
    before = server.tables("target")
    options = server.arguments("target", tmp_path, "a", mapping="postgresql")
    assert "another event under the same number: account-0000. Nothing was written" in fail_module(
        "akka_import", options
    )
    done = run(server, "akka_import", "target", tmp_path, journal, on_conflict="skip")
    assert [text.partition(":")[0] for text in done["skipped"]] == ["account-0000"]
    assert server.tables("target") == before


def test_deleted_events_do_not_come_back(server, tmp_path):
    journal = "akka-sql-1.5.73/default-plain"
    server.make("source", journal)
    server.make("target", journal)
    run(server, "akka_export", "source", tmp_path, journal)
    name, last = server.query(
        "target",
        "SELECT persistence_id, max(sequence_number) FROM journal WHERE NOT deleted GROUP BY 1 HAVING min(sequence_number) = 1 LIMIT 1",
    )[0]
    server.run(
        "target",
        f"DELETE FROM tags WHERE persistence_id = '{name}';"
        f"DELETE FROM journal WHERE persistence_id = '{name}' AND sequence_number < {last}",
    )
    server.run("target", f"UPDATE journal SET deleted = true WHERE persistence_id = '{name}'")
    before = server.tables("target")
    options = server.arguments("target", tmp_path, "a", mapping="default")
    assert f"lacks earlier ones of the archive: {name}. Nothing was written" in fail_module("akka_import", options)
    assert server.tables("target") == before


@pytest.mark.parametrize(
    ("store", "mapping", "words"),
    [
        (
            "akka-sql-1.5.73/default-plain",
            "postgresql",
            "there is no table akka_journal.event_journal, which the mapping postgresql has",
        ),
        (
            "akka-sql-1.5.73/postgresql-plain",
            "default",
            "there is no table public.journal, which the mapping default has",
        ),
        ("marten-9.58.0/guid", "default", "there is no table public.journal"),
    ],
)
def test_what_is_no_journal_is_refused_in_words(server, tmp_path, store, mapping, words):
    server.make("source", store)
    assert words in fail_module("akka_export", server.arguments("source", tmp_path, "a", mapping=mapping))


def test_a_table_that_is_no_journal_and_an_archive_of_another_kind_are_refused(server, tmp_path):
    server.make("source")
    server.run("source", "CREATE TABLE journal (id int); CREATE TABLE snapshot (id int)")
    assert "public.journal has no column ordering" in fail_module(
        "akka_export", server.arguments("source", tmp_path, "a")
    )
    server.make("events", "marten-9.58.0/guid")
    server.export("events", tmp_path, "b")
    server.make("target", "akka-sql-1.5.73/default-plain", rows=False)
    assert "is an archive of marten, not of akka: events_import.yml imports that kind" in fail_module(
        "akka_import", server.arguments("target", tmp_path, "b")
    )


def test_the_tables_of_the_legacy_plugin_go_out_and_in(server, tmp_path):
    """Akka.Persistence.PostgreSql: serial ordering, varchar columns, tags in a column, metadata where it is called so."""
    ddl = (
        "CREATE SCHEMA akka_journal; CREATE SCHEMA akka_snapshots;"
        "CREATE TABLE akka_journal.event_journal (ordering BIGSERIAL NOT NULL PRIMARY KEY, persistence_id VARCHAR(255) NOT NULL, "
        "sequence_nr BIGINT NOT NULL, is_deleted BOOLEAN NOT NULL, created_at BIGINT NOT NULL, manifest VARCHAR(500) NOT NULL, "
        "payload BYTEA NOT NULL, tags VARCHAR(2000) NULL, serializer_id INTEGER NULL, UNIQUE (persistence_id, sequence_nr));"
        "CREATE TABLE akka_journal.metadata (persistence_id VARCHAR(255) NOT NULL, sequence_nr BIGINT NOT NULL, "
        "PRIMARY KEY (persistence_id, sequence_nr));"
        "CREATE TABLE akka_snapshots.snapshot_store (persistence_id VARCHAR(255) NOT NULL, sequence_nr BIGINT NOT NULL, "
        "created_at BIGINT NOT NULL, manifest VARCHAR(500) NOT NULL, payload BYTEA NOT NULL, serializer_id INTEGER NULL, "
        "PRIMARY KEY (persistence_id, sequence_nr));"
    )
    text = (DATA / "akka-sql-1.5.73/postgresql-plain.sql").read_text()
    rows = "\n".join(re.findall(r"^COPY .*? FROM stdin;\n.*?^\\\.\n", text, re.MULTILINE | re.DOTALL)).replace(
        "journal_metadata", "metadata"
    )
    for name in ("source", "target"):
        server.make(name)
        server.run(name, ddl)
    server.run(
        "source",
        f"{rows}\nSELECT setval('akka_journal.event_journal_ordering_seq', (SELECT max(ordering) FROM akka_journal.event_journal))",
    )
    journal = "legacy/postgresql-plain"
    run(server, "akka_export", "source", tmp_path, journal)
    run(server, "akka_import", "target", tmp_path, journal, ordering="keep")
    assert server.tables("target") == server.tables("source")
    assert len(server.tables("target")["akka_journal.metadata"]) > 0


def test_an_import_that_is_killed_is_finished_by_the_next(server, tmp_path):
    journal = "akka-sql-1.5.73/default-plain"
    server.make("source", journal)
    server.run(
        "source",
        "INSERT INTO journal (created, deleted, persistence_id, sequence_number, message, manifest, identifier) "
        "SELECT n, false, 'many-' || n % 50, n / 50 + 1, 'x', '', 1 FROM generate_series(0, 19999) n",
    )
    server.make("target", journal, rows=False)
    run(server, "akka_export", "source", tmp_path, journal)
    options = server.arguments("target", tmp_path, "a", mapping="default", batch=1000)
    for _turn in range(3):
        process = start("akka_import", options)
        counted = server.query("target", "SELECT count(*) FROM journal")
        deadline = time.monotonic() + 60
        while (
            process.poll() is None
            and server.query("target", "SELECT count(*) FROM journal") == counted
            and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        server.query(
            "target",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holdfast-import'",
        )
    run(server, "akka_import", "target", tmp_path, journal)
    assert without_ordering(server, "target", "journal", "") == without_ordering(server, "source", "journal", "")
