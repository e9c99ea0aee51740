# SPDX-License-Identifier: Apache-2.0
"""The archive's manifest proves itself and says no less than it was told."""

from __future__ import annotations

import dataclasses
import json

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import manifest as manifests
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import store
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.manifest import File, Manifest
from ansible_collections.holdfast.persistence.plugins.module_utils.events import archive as archives
from ansible_collections.holdfast.persistence.plugins.module_utils.events import export
from ansible_collections.holdfast.persistence.plugins.module_utils.events.archive import Archive, Part
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from hypothesis import given
from hypothesis import strategies as st

LABEL = "20261130T021500Z-orders"
ARCHIVE = Archive(
    kind="marten",
    name="orders",
    encoding="copy-text",
    shape={"schema": "events", "identity": "guid", "tenancy": "single", "partitions": "none", "tenants": []},
    selection={"since": "", "until": "", "tenants": [], "types": [], "archived": "include"},
    source={"system_identifier": "7", "database": "orderdb"},
    parts=(
        Part("events-000001.copy.zst", "mt_events", "events", 2, ("seq_id", "id"), "", 1, 2),
        Part("streams.copy.zst", "mt_streams", "streams", 1, ("id",)),
    ),
    sequences={"": 2},
    totals={"events": 2, "streams": 1},
)


def written(archive=ARCHIVE, files=()):
    """Return the text of an archive's manifest."""
    plain = Manifest(
        engine="events",
        kind=archive.kind,
        cluster="lab",
        label=LABEL,
        start="2026-11-30T02:15:00.000Z",
        end="2026-11-30T02:15:01.000Z",
        files=files or tuple(File(part.file, 9, "0" * 64) for part in archive.parts),
        extras=archives.extras(archive),
    )
    return manifests.dump(dataclasses.replace(plain, extras=archives.sealed(manifests.dump(plain))))


def read(text):
    return archives.parse(manifests.parse(text), text)


def test_what_is_written_is_read():
    assert read(written()) == ARCHIVE


@given(place=st.integers(0, 8 * len(written()) - 1))
def test_a_flipped_bit_anywhere_in_the_manifest_is_found(place):
    content = bytearray(written().encode())
    content[place // 8] ^= 1 << place % 8
    with pytest.raises((Refusal, UnicodeDecodeError)):
        read(content.decode())


@given(data=st.data())
def test_a_flipped_bit_anywhere_in_a_file_is_found(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    path = folder / "events" / LABEL
    path.mkdir(parents=True)
    contents = {part.file: f"content of {part.file}".encode() for part in ARCHIVE.parts}
    for name, content in contents.items():
        (path / name).write_bytes(content)
    (path / "manifest.json").write_text(written(files=store.describe(str(path))))
    assert export.load(str(folder), LABEL)[0] == ARCHIVE
    name = data.draw(st.sampled_from(sorted(contents)))
    place = data.draw(st.integers(0, 8 * len(contents[name]) - 1))
    changed = bytearray(contents[name])
    changed[place // 8] ^= 1 << place % 8
    (path / name).write_bytes(bytes(changed))
    with pytest.raises(Refusal, match=f"{name} has another content than was written"):
        export.load(str(folder), LABEL)


def edited(change):
    content = json.loads(written())
    change(content["archive"])
    content["archive"]["sha256"] = archives.seal(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda told: told.update(version=2), "format version 2; this release reads 1. Use a newer release"),
        (lambda told: told.update(format="tar"), "is not an archive of events"),
        (lambda told: told.pop("shape"), "does not describe an archive"),
        (lambda told: told.update(kind="tape"), "does not describe an archive"),
        (
            lambda told: told["parts"][0].update(file="elsewhere.zst"),
            "elsewhere.zst is a part of the archive, but none of its files",
        ),
    ],
)
def test_what_this_release_can_not_read_is_refused_in_words(change, words):
    with pytest.raises(Refusal, match=words):
        read(edited(change))


def test_json_lines_and_archives_of_another_kind_are_not_imported():
    archives.require_importable(ARCHIVE, "marten")
    with pytest.raises(Refusal, match="orders has the format jsonl, which is an output"):
        archives.require_importable(dataclasses.replace(ARCHIVE, encoding="jsonl"), "marten")
    with pytest.raises(Refusal, match=r"archive of marten, not of akka: events_import\.yml imports that kind"):
        archives.require_importable(ARCHIVE, "akka")


@pytest.mark.parametrize("name", ["", "Orders", "../orders", "a" * 64, "-a", "a b"])
def test_names_that_are_no_part_of_a_path_are_refused(name):
    with pytest.raises(Refusal, match="allowed are up to 63 lower case letters"):
        archives.check_name(name)


def test_archives_that_hold_the_same_numbers_of_the_same_store_are_told():
    later = dataclasses.replace(ARCHIVE, name="later", parts=(dataclasses.replace(ARCHIVE.parts[0], first=2, last=5),))
    apart = dataclasses.replace(later, name="apart", parts=(dataclasses.replace(ARCHIVE.parts[0], first=6, last=9),))
    other = dataclasses.replace(later, name="other", source={"system_identifier": "8", "database": "orderdb"})
    assert archives.overlaps([ARCHIVE, later, apart, other]) == ["later and orders both hold events 2 to 2"]
