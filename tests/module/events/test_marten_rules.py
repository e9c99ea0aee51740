# SPDX-License-Identifier: Apache-2.0
"""What an import into a store takes, what it refuses, and what is left when it is killed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.events import export, load, ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.events.export import Order, Place
from ansible_collections.holdfast.persistence.plugins.module_utils.events.psql import Reach, Session
from ansible_collections.holdfast.persistence.plugins.module_utils.events.target import Wish
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from event_stores import without_rows
from run_module import fail_module, start

NEW = "marten-9.58.0"
# HighWaterMark is lifted over what this test wrote behind the daemon's back.
PROGRESS = "mt_event_progression"


class Store:
    """Databases of one test, and archives of them."""

    def __init__(self, server, folder):
        self.server, self.folder = server, folder

    def reach(self, name):
        return Reach(str(self.server.database.programs.folder), "127.0.0.1", self.server.port, "postgres", name)

    def export(self, name, archive="a", **options):
        selection = ranges.selection(
            **{key: options.pop(key) for key in ("since", "until", "tenants", "types") if key in options}
        )
        return export.export(self.reach(name), Place(str(self.folder)), Order(archive, "events", selection, **options))

    def load(self, name, archive="a", check=False, **options):
        found, path = export.load(str(self.folder), export.require(str(self.folder), archive))
        return load.load(self.reach(name), found, path, Wish("events", **options), check=check)

    def events(self, name):
        """Everything about the events of a store but the numbers."""
        return self.server.query(
            name,
            "SELECT stream_id::text, version, id, data::text, type, timestamp::text, is_archived FROM events.mt_events ORDER BY 1, 2, 7",
        )


@pytest.fixture
def store(server, tmp_path):
    return Store(server, tmp_path)


def middle(server, name):
    """Return the time of an event in the middle of a stream in the middle of a store."""
    (moment,) = server.query(
        name,
        "SELECT timestamp FROM events.mt_events e WHERE seq_id > 40 AND EXISTS (SELECT 1 FROM events.mt_events x "
        "WHERE x.stream_id = e.stream_id AND x.version = e.version - 1 AND x.timestamp < e.timestamp) ORDER BY seq_id LIMIT 1",
    )[0]
    return moment.isoformat()


@pytest.mark.parametrize("shape", ["guid", "tagged", "archived", "tenants", "source"])
def test_two_ranges_of_time_make_the_whole_and_the_second_alone_is_refused(server, store, shape):
    server.make("source", f"{NEW}/{shape}")
    server.make("target", f"{NEW}/{shape}", rows=False)
    moment = middle(server, "source")
    first, second = store.export("source", "first", until=moment), store.export("source", "second", since=moment)
    assert first.archive.cut == 0
    assert second.archive.cut > 0
    assert first.archive.totals["events"] + second.archive.totals["events"] == len(store.events("source"))
    with pytest.raises(Refusal, match="begins in the middle of"):
        store.load("target", "second")
    store.load("target", "first")
    done = store.load("target", "second")
    assert (done.inserted, done.skipped) == (second.archive.totals["events"], [])
    assert store.events("target") == store.events("source")
    for table in ("mt_streams", "mt_event_tag_sku", "mt_event_tag_customer", "mt_streams_identity"):
        key = f"events.{table}"
        everything = server.tables("source")
        if key in everything:
            assert server.tables("target")[key] == everything[key]
    assert store.load("target", "first").inserted == store.load("target", "second").inserted == 0


def test_a_cut_stream_in_a_store_that_has_others_is_refused_or_skipped(server, store):
    server.make("source", f"{NEW}/guid")
    server.make("target", f"{NEW}/guid", rows=False)
    moment = middle(server, "source")
    store.export("source", "first", until=moment)
    second = store.export("source", "second", since=moment)
    store.load("target", "first")
    stream = server.query(
        "source",
        f"SELECT stream_id FROM events.mt_events WHERE timestamp >= '{moment}' AND stream_id IN "
        f"(SELECT stream_id FROM events.mt_events WHERE timestamp < '{moment}') LIMIT 1",
    )[0][0]
    server.run(
        "target",
        f"DELETE FROM events.mt_events WHERE stream_id = '{stream}'; DELETE FROM events.mt_streams WHERE id = '{stream}'",
    )
    before = server.tables("target")
    with pytest.raises(Refusal, match=f"lacks earlier events of it, which the store lacks, too: stream {stream}"):
        store.load("target", "second")
    assert server.tables("target") == before
    done = store.load("target", "second", on_conflict="skip")
    assert [text.split(":")[0] for text in done.skipped] == [str(stream)]
    assert done.inserted < second.archive.totals["events"]
    assert server.query("target", f"SELECT count(*) FROM events.mt_events WHERE stream_id = '{stream}'") == [(0,)]


@pytest.mark.parametrize("shape", ["guid", "tagged", "metadata", "tenants", "archived"])
def test_append_draws_new_numbers_in_the_same_order_in_a_store_that_lives(server, store, shape):
    server.make("source", f"{NEW}/{shape}")
    server.make("target", f"{NEW}/{shape}", rows=False)
    # The store has had numbers that are gone: what is appended goes above them.
    for name in server.sequences("target"):
        server.run("target", f"SELECT setval('events.{name}', 500)")
    store.export("source")
    done = store.load("target", mode="append")
    order = "SELECT id, tenant_id FROM events.mt_events WHERE type <> 'tombstone' ORDER BY tenant_id, seq_id"
    assert server.query("target", order) == server.query("source", order)
    assert server.query("target", "SELECT min(seq_id) FROM events.mt_events") == [(501,)]
    kept = [row for row in store.events("source") if row[4] != "tombstone"]
    assert store.events("target") == kept
    assert done.inserted == len(kept)
    again = store.load("target", mode="append")
    assert (again.inserted, again.changed) == (0, False)
    if shape == "tagged":
        tags = "SELECT t.value::text, e.id FROM events.mt_event_tag_sku t JOIN events.mt_events e USING (seq_id) ORDER BY 1, 2"
        assert server.query("target", tags) == server.query("source", tags)
        assert len(server.query("target", tags)) > 0


def test_another_event_under_the_same_version_is_refused_or_left_out(server, store):
    server.make("source", f"{NEW}/guid")
    server.make("target", f"{NEW}/guid")
    store.export("source")
    # An application has gone on in both: the stores have parted.
    server.run("target", "UPDATE events.mt_events SET id = gen_random_uuid() WHERE seq_id = 5")
    before = server.tables("target")
    with pytest.raises(Refusal, match="the store has another event under the same version: stream"):
        store.load("target")
    done = store.load("target", on_conflict="skip")
    assert len(done.skipped) == 1
    assert server.tables("target") == before


def test_a_number_that_another_event_has_is_refused_with_the_way_out(server, store):
    server.make("source", f"{NEW}/guid")
    server.make("target", f"{NEW}/guid", rows=False)
    store.export("source")
    server.run(
        "target",
        "INSERT INTO events.mt_streams (id, version) VALUES ('00000000-0000-0000-0000-000000000001', 1);"
        "INSERT INTO events.mt_events (seq_id, id, stream_id, version, data, type, timestamp) VALUES "
        "(7, gen_random_uuid(), '00000000-0000-0000-0000-000000000001', 1, '{}', 'x', now());",
    )
    with pytest.raises(Refusal, match=r"other events under sequence numbers of archive a \(7\).*mode append"):
        store.load("target")
    assert store.load("target", mode="append").inserted == 86


@pytest.mark.parametrize(
    ("archived", "other", "words"),
    [
        ("guid", "string", "identity: the archive has UUIDs"),
        ("guid", "conjoined", "tenancy: the archive has single-tenant events"),
        ("guid", "archived", "partitions: the archive has no partitions"),
        ("conjoined", "source", "lacks the column correlation_id of the archive"),
        ("tagged", "guid", "it has no table mt_event_tag_customer"),
    ],
)
def test_a_store_of_another_shape_is_refused_in_words(server, store, archived, other, words):
    server.make("source", f"{NEW}/{archived}")
    server.make("target", f"{NEW}/{other}", rows=False)
    store.export("source")
    before = server.tables("target")
    with pytest.raises(Refusal, match=words):
        store.load("target")
    assert server.tables("target") == before


def test_daemons_and_writers_are_named_and_nothing_is_written(server, store):
    server.make("source", f"{NEW}/guid")
    server.make("target", f"{NEW}/guid", rows=False)
    store.export("source")
    with server.connect("target") as daemon:
        daemon.execute("SET application_name = 'orders-daemon'")
        daemon.execute("SELECT pg_advisory_lock(822875848)")
        with pytest.raises(Refusal, match=r"a daemon seems to lead.*orders-daemon.*lock 822875848"):
            store.load("target")
        assert store.load("target", accept_locks=(822875848,), check=True).inserted == 86
    with server.connect("target") as writer:
        writer.execute("SET application_name = 'orders'")
        writer.execute("BEGIN")
        writer.execute("INSERT INTO events.mt_streams (id, version) VALUES (gen_random_uuid(), 0)")
        with pytest.raises(Refusal, match=r"an application writes events now: process \d+ \(postgres, orders"):
            store.load("target")
        writer.execute("ROLLBACK")
    server.run("target", "INSERT INTO events.mt_event_progression (name, last_seq_id) VALUES ('Order:All', 40)")
    with pytest.raises(Refusal, match=r"projections that have seen some \(Order:All at 40\)"):
        store.load("target")
    assert server.query("target", "SELECT count(*) FROM events.mt_events") == [(0,)]


def test_numbers_that_a_function_of_32_bits_can_not_give_are_refused(server, store):
    server.make("source", f"{NEW}/guid")
    server.make("target", f"{NEW}/guid", rows=False)
    server.run("source", "UPDATE events.mt_events SET seq_id = seq_id + 3000000000")
    server.run(
        "target", "CREATE FUNCTION events.mt_quick_append_events() RETURNS int[] LANGUAGE sql AS $$ SELECT ARRAY[1] $$"
    )
    store.export("source")
    with pytest.raises(Refusal, match="counts in 32 bits"):
        store.load("target")
    assert store.load("target", mode="append").inserted == 86


def test_keys_are_dropped_and_built_again_in_one_transaction(server, store):
    server.make("source", f"{NEW}/tagged")
    server.make("target", f"{NEW}/tagged", rows=False)
    store.export("source")
    keys = (
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'events'::regnamespace UNION "
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'events' ORDER BY 1, 2"
    )
    before = server.query("target", keys)
    store.load("target", rebuild_keys=True)
    assert server.query("target", keys) == before
    assert server.tables("target") == server.tables("source")
    with pytest.raises(Refusal, match="keys are rebuilt in empty stores only"):
        store.load("target", rebuild_keys=True)


def test_only_the_owner_rebuilds_keys(server, store):
    server.make("source", f"{NEW}/guid")
    server.make("target", f"{NEW}/guid", rows=False)
    server.run("target", "DROP ROLE IF EXISTS importer")
    server.run(
        "target",
        "CREATE ROLE importer LOGIN; GRANT USAGE ON SCHEMA events TO importer; GRANT ALL ON ALL TABLES IN SCHEMA events TO importer",
    )
    server.run("target", "GRANT ALL ON ALL SEQUENCES IN SCHEMA events TO importer")
    store.export("source")
    found, path = export.load(str(store.folder), export.require(str(store.folder), "a"))
    importer = dataclasses.replace(store.reach("target"), user="importer")
    with pytest.raises(Refusal, match="rebuild_keys needs the owner of the tables"):
        load.load(importer, found, path, Wish("events", rebuild_keys=True))
    # What facts of Marten demand of an import's role is enough for all else.
    assert load.load(importer, found, path, Wish("events")).inserted == 86
    assert server.tables("target") == server.tables("source")
    server.drop("target")
    server.run("postgres", "DROP ROLE importer")


def test_unknown_tables_are_refused_by_name_or_carried(server, store):
    for name, rows in (("source", True), ("target", False)):
        server.make(name, f"{NEW}/guid", rows=rows)
        server.run(name, "CREATE TABLE events.mt_news (id int PRIMARY KEY, body text)")
    server.run("source", r"INSERT INTO events.mt_news VALUES (1, E'a\tb\nc\\d')")
    with pytest.raises(Refusal, match="does not know: mt_news"):
        store.export("source")
    store.export("source", carry=("mt_news",))
    store.load("target")
    assert server.tables("target") == server.tables("source")


def test_unknown_columns_are_carried_or_refused_by_name(server, store):
    for name, rows in (("source", True), ("target", False)):
        server.make(name, f"{NEW}/guid", rows=rows)
    server.run("source", "ALTER TABLE events.mt_events ADD COLUMN \"Odd name\" text DEFAULT 'x'")
    store.export("source")
    with pytest.raises(Refusal, match="mt_events lacks the column Odd name of the archive"):
        store.load("target")
    server.run("target", 'ALTER TABLE events.mt_events ADD COLUMN "Odd name" text')
    store.load("target")
    assert server.tables("target") == server.tables("source")


def test_json_lines_are_for_people_and_not_for_imports(server, store):
    server.make("source", f"{NEW}/tagged")
    server.make("target", f"{NEW}/tagged", rows=False)
    made = store.export("source", format="jsonl")
    text = subprocess.run(
        ["zstd", "-dc", Path(made.path) / "events-000001.jsonl.zst"], capture_output=True, check=True
    ).stdout.decode()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["seq_id"] for line in lines] == [
        row[0] for row in server.query("source", "SELECT seq_id FROM events.mt_events ORDER BY 1")
    ]
    assert [line["data"] for line in lines] == [
        row[0] for row in server.query("source", "SELECT data FROM events.mt_events ORDER BY seq_id")
    ]
    with pytest.raises(Refusal, match="has the format jsonl, which is an output"):
        store.load("target")


def test_one_tenant_goes_out_and_in_alone(server, store):
    for shape in ("conjoined", "tenants"):
        server.make("source", f"{NEW}/{shape}")
        server.make("target", f"{NEW}/{shape}", rows=False)
        store.export("source", shape, tenants=["süd"])
        store.load("target", shape)
        of_tenant = "SELECT * FROM events.mt_events WHERE tenant_id = 'süd' ORDER BY seq_id"
        assert server.query("target", of_tenant) == server.query("source", of_tenant)
        assert server.query("target", "SELECT DISTINCT tenant_id FROM events.mt_events") == [("süd",)]
        with pytest.raises(Refusal, match="the store has no tenant nobody; it has Tenant-3, north, süd"):
            store.export("source", f"{shape}-2", tenants=["nobody"])


def grow(server, name, events):
    """Give a store many events: each stream of ten."""
    server.run(
        name,
        f"INSERT INTO events.mt_streams (id, version) SELECT md5(n::text)::uuid, 10 FROM generate_series(1, {events} / 10) n;"
        "INSERT INTO events.mt_events (seq_id, id, stream_id, version, data, type, timestamp) "
        "SELECT 1000 + n, md5('e' || n)::uuid, md5((n / 10 + 1)::text)::uuid, n % 10 + 1, jsonb_build_object('n', n), 'grown', "
        f"'2027-01-01'::timestamptz + n * interval '1 s' FROM generate_series(0, {events} - 1) n;"
        f"SELECT setval('events.mt_events_sequence', 1000 + {events})",
    )


def test_a_killed_export_goes_on_and_takes_what_has_changed_anew(server, store):
    server.make("source", f"{NEW}/guid")
    grow(server, "source", 20_000)
    order = Order("a", "events", part=1_000)
    arguments = server.arguments("source", store.folder, "a", rate=150_000)
    process = start("event_store_export", arguments)
    state = None
    deadline = time.monotonic() + 60
    while not state and time.monotonic() < deadline:
        state = next(iter(Path(store.folder).glob("events/*.partial/state.json")), None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # The module's parts are large: what follows continues from parts of a size of its own.
    plain = Place(str(store.folder))
    with pytest.raises(RuntimeError), dying(after=8):
        export.export(store.reach("source"), plain, order)
    server.run(
        "source",
        "UPDATE events.mt_events SET data = '{}' WHERE seq_id = 1000; DELETE FROM events.mt_events WHERE seq_id = 2500",
    )
    made = export.export(store.reach("source"), plain, order)
    assert made.resumed == 6
    server.make("target", f"{NEW}/guid", rows=False)
    server.run("target", "ALTER TABLE events.mt_events ALTER COLUMN timestamp SET DEFAULT now()")
    store.load("target")
    assert server.tables("target", PROGRESS) == server.tables("source", PROGRESS)
    assert list(Path(store.folder).glob("events/*.partial")) == []


@contextlib.contextmanager
def dying(after):
    """Have an export die when it has written some files."""
    original = export.psql.compress
    written = []

    def compress(*arguments):
        if len(written) >= after:
            raise RuntimeError("killed")
        written.append(arguments[0])
        return original(*arguments)

    export.psql.compress = compress
    try:
        yield
    finally:
        export.psql.compress = original


def test_imports_that_are_killed_ten_times_end_with_every_event_once(server, store):
    server.make("source", f"{NEW}/guid")
    grow(server, "source", 30_000)
    store.export("source", part=3_000)
    server.make("target", f"{NEW}/guid", rows=False)
    killed = 0
    for turn in range(10):
        process = start("event_store_import", server.arguments("target", store.folder, "a", batch=2_000))
        counted = server.query("target", "SELECT count(*) FROM events.mt_events")
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            # As soon as it has written something more, it dies.
            if turn % 2 or server.query("target", "SELECT count(*) FROM events.mt_events") != counted:
                break
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        server.query(
            "target",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holdfast-import'",
        )
    assert killed >= 5
    store.load("target")
    assert server.tables("target", PROGRESS) == server.tables("source", PROGRESS)
    assert server.sequences("target") == server.sequences("source")


def test_a_killed_import_that_rebuilds_keys_leaves_every_key(server, store):
    server.make("source", f"{NEW}/guid")
    grow(server, "source", 30_000)
    store.export("source")
    server.make("target", f"{NEW}/guid", rows=False)
    keys = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'events' ORDER BY 1"
    before = server.query("target", keys)
    process = start("event_store_import", server.arguments("target", store.folder, "a", rebuild_keys=True))
    deadline = time.monotonic() + 60
    held = (
        "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = 'events.mt_events'::regclass"
    )
    while server.query("target", held) == [(0,)] and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while server.query("target", held) != [(0,)] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.query("target", keys) == before
    store.load("target", rebuild_keys=True)
    assert server.query("target", keys) == before
    assert server.tables("target", PROGRESS) == server.tables("source", PROGRESS)


def test_an_application_that_appends_meanwhile_loses_nothing(server, store):
    server.make("source", f"{NEW}/guid")
    grow(server, "source", 10_000)
    store.export("source")
    server.make("target", f"{NEW}/guid", rows=False)
    ended = threading.Event()
    appended = []

    def work():
        with server.connect("target") as connection:
            while not ended.is_set():
                with connection.transaction():
                    stream = connection.execute(
                        "INSERT INTO events.mt_streams (id, version) VALUES (gen_random_uuid(), 1) RETURNING id"
                    ).fetchone()[0]
                    connection.execute(
                        "INSERT INTO events.mt_events (seq_id, id, stream_id, version, data, type, timestamp) "
                        "VALUES (nextval('events.mt_events_sequence'), gen_random_uuid(), %s, 1, '{}', 'live', now())",
                        [stream],
                    )
                appended.append(stream)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        done = store.load("target", mode="append", batch=1_000)
    finally:
        ended.set()
        worker.join()
    assert done.inserted == 10_086
    assert len(appended) > 0
    assert server.query("target", "SELECT count(*), count(DISTINCT seq_id) FROM events.mt_events") == [
        (10_086 + len(appended),) * 2
    ]


def test_a_damaged_archive_is_refused_before_anything_is_written(server, store):
    server.make("source", f"{NEW}/guid")
    server.make("target", f"{NEW}/guid", rows=False)
    made = store.export("source")
    path = Path(made.path) / "events-000001.copy.zst"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    words = fail_module("event_store_import", server.arguments("target", store.folder, "a"))
    assert "events-000001.copy.zst has another content than was written (SHA-256)" in words
    os.unlink(path)
    assert "events-000001.copy.zst is missing" in fail_module(
        "event_store_import", server.arguments("target", store.folder, "a")
    )
    assert server.query("target", "SELECT count(*) FROM events.mt_streams") == [(0,)]


def test_an_archive_of_that_name_and_another_order_is_refused(server, store):
    server.make("source", f"{NEW}/guid")
    store.export("source")
    with pytest.raises(Refusal, match=r"archive a exists already .*, made with another selection"):
        store.export("source", since="2026-01-01T00:00:00Z")
    with pytest.raises(Refusal, match="there is no archive b in"):
        store.load("source", "b")


def test_a_schema_without_a_store_is_refused(server, store):
    server.make("source")
    with pytest.raises(Refusal, match="there is no schema events"):
        store.export("source")
    server.run("source", "CREATE SCHEMA events; CREATE TABLE events.mt_events (id int)")
    with pytest.raises(Refusal, match="schema events has no mt_streams: it holds no event store"):
        store.export("source")


def test_rows_of_an_archive_are_read_without_us(server, store):
    """As docs/events.md says: zstd and psql."""
    server.make("source", f"{NEW}/guid")
    made = store.export("source")
    server.make("target")
    server.run("target", without_rows((Path(__file__).parents[2] / f"data/events/{NEW}/guid.sql").read_text()))
    manifest = json.loads((Path(made.path) / "manifest.json").read_text())
    for part in manifest["archive"]["parts"]:
        if part["role"] not in ("events", "streams"):
            continue
        rows = subprocess.run(
            ["zstd", "-dc", Path(made.path) / part["file"]], capture_output=True, check=True
        ).stdout.decode()
        columns = ", ".join(part["columns"])
        server.run(
            "target",
            f"SET session_replication_role = replica; COPY events.{part['table']} ({columns}) FROM stdin;\n{rows}\\.\n",
        )
    assert server.tables("target")["events.mt_events"] == server.tables("source")["events.mt_events"]


def test_imports_into_a_schema_come_one_after_the_other(server, store):
    """An import waits for the server to end the session of one before, and gives up on one that works."""
    server.make("source", f"{NEW}/guid")
    server.make("target", f"{NEW}/guid", rows=False)
    store.export("source")
    with Session(store.reach("target")) as other:
        other.ask("SELECT pg_advisory_lock(hashtext('holdfast-import'), hashtext('events'))")
        with pytest.raises(Refusal, match="another import into schema events runs"):
            store.load("target", mode="append")
    assert store.load("target", mode="append").changed
    assert not store.load("target", mode="append").changed
