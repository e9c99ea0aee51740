# SPDX-License-Identifier: Apache-2.0
"""Manifests: what makes a folder a backup, and what unmakes it."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import manifest, proofs, store
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from hypothesis import given
from hypothesis import strategies as st

DIGEST = "0" * 64
SET = manifest.Manifest(
    engine="logical",
    kind="full",
    cluster="lab",
    label="20261126T041243Z-full",
    start="2026-11-26T04:12:43Z",
    end="2026-11-26T04:13:00.5Z",
    set="20261126T041240Z",
    position={"lsn": "0/3000028", "timeline": 2},
    versions={"postgresql": "17.11"},
    files=(manifest.File("dump/toc.dat", 10, DIGEST), manifest.File("dump/1.dat.zst", 5, "a" * 64)),
    extras={"database": "orders"},
)
NAMES = st.text("abcdefgh/.", min_size=1, max_size=12)


def changed(**more):
    return json.dumps({**json.loads(manifest.dump(SET)), **more})


def test_a_manifest_is_read_as_it_was_written():
    assert manifest.parse(manifest.dump(SET), SET.label) == SET
    assert json.loads(manifest.dump(SET))["bytes"] == 15


@given(
    st.lists(st.tuples(NAMES, st.integers(0, 2**50)), min_size=1, max_size=5, unique_by=lambda pair: pair[0]),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)
def test_any_manifest_that_can_be_written_is_read_the_same(files, position):
    wish = replace(SET, files=tuple(manifest.File(name, size, DIGEST) for name, size in files), position=position)
    try:
        text = manifest.dump(wish)
    except Refusal:
        return
    assert manifest.parse(text) == wish
    assert all(not name.startswith(("/", "../")) for name, _size in files)


@given(st.text(max_size=200))
def test_any_text_is_a_manifest_or_refused(text):
    with pytest.raises(Refusal):
        manifest.parse(text)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not JSON"),
        ("[]", "not a JSON object"),
        (changed(format=2), "format 2"),
        (changed(files=[]), "lists no files"),
        (changed(files=[{"path": "../x", "bytes": 1, "sha256": DIGEST}]), "not a path inside"),
        (changed(files=[{"path": "/x", "bytes": 1, "sha256": DIGEST}]), "not a path inside"),
        (changed(files=[{"path": "x", "bytes": -1, "sha256": DIGEST}]), "-1 bytes"),
        (changed(files=[{"path": "x", "bytes": 1, "sha256": "zz"}]), "not a SHA-256"),
        (changed(files=[{"path": "x", "bytes": 1, "sha256": DIGEST}] * 2), "twice"),
        (changed(bytes=14), "not the sum"),
        (changed(end="2026-11-26T04:12:42Z"), "before it starts"),
        (changed(end="yesterday"), "not a time"),
        (changed(label="latest"), "is none"),
        (changed(engine=None), "engine is not a text"),
    ],
)
def test_a_manifest_that_was_meddled_with_is_refused(text, word):
    with pytest.raises(Refusal, match=word):
        manifest.parse(text)


def test_a_manifest_belongs_to_its_folder():
    with pytest.raises(Refusal, match="manifest of 20261126T041243Z-full"):
        manifest.parse(manifest.dump(SET), "20261126T041244Z")


@given(st.sets(st.integers(0, 5)), st.booleans())
def test_a_label_is_new_among_those_that_are_there(offsets, partial):
    moment = datetime.datetime(2026, 11, 26, 4, 12, 43, tzinfo=datetime.UTC)
    taken = [
        manifest.new_label(moment + datetime.timedelta(seconds=offset), "full") + (".partial" if partial else "")
        for offset in offsets
    ]
    label = manifest.new_label(moment, "full", taken)
    assert manifest.is_label(label)
    assert label not in {name.removesuffix(".partial") for name in taken}


@pytest.mark.parametrize(
    "name", ["", "latest", "20261326T041243Z", "20261126T041243Z-", "20261126T041243Z.partial", "../x"]
)
def test_what_is_no_label_is_none(name):
    assert not manifest.is_label(name)


def test_what_is_unfinished_is_never_a_backup():
    names = ["20261126T041243Z", "20261126T041244Z.partial", "20261126T041245Z-full.partial", "notes.partial"]
    assert manifest.leftovers(names) == names[1:3]


def test_files_are_compared_by_presence_size_and_content():
    sizes = {"dump/toc.dat": 10, "dump/1.dat.zst": 5, "manifest.json": 900}
    assert manifest.problems(SET, sizes) == []
    assert manifest.problems(SET, sizes, {"dump/toc.dat": DIGEST, "dump/1.dat.zst": "a" * 64}) == []
    assert "another content" in manifest.problems(SET, sizes, {"dump/toc.dat": DIGEST, "dump/1.dat.zst": "b" * 64})[0]
    assert manifest.problems(SET, {"dump/toc.dat": 9, "other": 1}) == [
        "dump/toc.dat has 9 bytes, not 10",
        "dump/1.dat.zst is missing",
        "other is not in the manifest",
    ]


PROOF = proofs.Proof(
    engine="logical",
    label=SET.label,
    drill="weekly",
    proved="2026-11-27T00:00:00Z",
    verdict="proved",
    rto_seconds=12.5,
    checks=(proofs.Check("rows", True, "120 rows"),),
)


def test_a_proof_is_read_as_it_was_written():
    assert proofs.parse(proofs.dump(PROOF)) == PROOF


@pytest.mark.parametrize(
    "wrong",
    [
        replace(PROOF, verdict="good"),
        replace(PROOF, proved="soon"),
        replace(PROOF, checks=(proofs.Check("rows", False),)),
    ],
)
def test_a_proof_that_proves_nothing_is_refused(wrong):
    with pytest.raises(Refusal):
        proofs.dump(wrong)


def test_the_newest_proof_counts():
    later = replace(PROOF, proved="2026-11-28T00:00:00+01:00", verdict="failed")
    assert proofs.newest([later, PROOF]) == {("logical", SET.label): later}


def stored(root, label="20261126T041243Z-full"):
    partial = store.begin(str(root), "logical", label)
    with open(f"{partial}/a.dat", "wb") as file:
        file.write(b"content")
    return partial, replace(SET, label=label, files=store.describe(partial))


def test_a_backup_on_disk_is_one_only_after_it_is_finished(tmp_path):
    partial, wish = stored(tmp_path)
    assert store.read(str(tmp_path), "logical") == []
    store.finish(partial, wish)
    (found,) = store.read(str(tmp_path), "logical", deep=True)
    assert found.problems == () and found.manifest == wish


def test_a_flipped_byte_is_found_by_a_deep_look_only(tmp_path):
    final = store.finish(*stored(tmp_path))
    with open(f"{final}/a.dat", "r+b") as file:
        file.write(b"C")
    assert store.look(str(tmp_path), "logical", wish_label(final)).problems == ()
    assert "another content" in store.look(str(tmp_path), "logical", wish_label(final), deep=True).problems[0]


def wish_label(path):
    return path.rsplit("/", 1)[1]


def test_a_sweep_removes_what_is_unfinished_and_nothing_else(tmp_path):
    store.finish(*stored(tmp_path))
    stored(tmp_path, "20261126T041300Z-full")
    assert store.sweep(str(tmp_path), "logical") == ["20261126T041300Z-full.partial"]
    assert store.labels(str(tmp_path), "logical") == ["20261126T041243Z-full"]


def test_a_deletion_is_recorded(tmp_path):
    store.finish(*stored(tmp_path))
    store.remove(str(tmp_path), "logical", "20261126T041243Z-full", "superseded", "2026-11-27T00:00:00Z")
    assert store.names(str(tmp_path), "logical") == []
    assert json.loads((tmp_path / store.DELETIONS).read_text())["reason"] == "superseded"


def test_proofs_that_cannot_be_read_are_told(tmp_path):
    path = store.write_proof(str(tmp_path), PROOF)
    assert store.read_proofs(str(tmp_path)) == ([PROOF], [])
    with open(path, "w", encoding="utf-8") as file:
        file.write("{")
    found, wrong = store.read_proofs(str(tmp_path))
    assert found == [] and path in wrong[0]
