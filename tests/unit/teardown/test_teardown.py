# SPDX-License-Identifier: Apache-2.0
"""What may be deleted, and that the module deletes exactly that."""

from __future__ import annotations

import json
import os

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusals
from ansible_collections.holdfast.persistence.plugins.module_utils.teardown import (
    SHARED,
    Unit,
    check_paths,
    describe,
    parse_units,
)
from ansible_collections.holdfast.persistence.plugins.modules import teardown
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.text("abc", min_size=1, max_size=3)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/srv/" + "/".join(names))


@pytest.mark.parametrize("path", [*sorted(SHARED), "/etc/", "//etc", "/var/lib/x/..", "/etc/./ssl"])
def test_what_belongs_to_the_system_is_refused(path):
    with pytest.raises(Refusals, match="belongs to the system"):
        check_paths([path], [])


def test_all_problems_are_told_at_once():
    with pytest.raises(Refusals, match=r"/etc belongs.*/srv/a/wal is mounted inside .*'here' is not an absolute path"):
        check_paths(["here", "/etc", "/srv/a"], ["/", "/srv/a/wal"])


def test_a_mount_point_itself_is_allowed():
    assert check_paths(["/srv/a"], ["/", "/srv/a"]) == ["/srv/a"]


def test_a_similar_name_is_not_inside():
    assert check_paths(["/srv/a", "/srv/ab"], ["/srv/a-b"]) == ["/srv/a", "/srv/ab"]


@given(st.lists(PATHS, max_size=6))
def test_each_wished_path_is_covered_once(paths):
    kept = check_paths(paths, [])
    for path in paths:
        assert sum(path == one or path.startswith(one + "/") for one in kept) == 1
    assert set(kept) <= set(paths)


def test_units_are_read():
    text = (
        "Id=a.service\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n\n"
        "Id=b.service\nLoadState=not-found\nActiveState=inactive\nUnitFileState=\n"
    )
    assert parse_units(text) == {
        "a.service": Unit("a.service", "loaded", "active", "enabled"),
        "b.service": Unit("b.service", "not-found", "inactive", ""),
    }


def test_a_description_lists_units_and_paths():
    units = [Unit("a.service", "loaded", "active", "enabled"), Unit("b.service", "loaded", "failed", "disabled")]
    assert describe(units, {"/srv/a": (2, 30)}) == "unit a.service: active, starts at boot\n/srv/a: 2 files, 30 bytes\n"


@pytest.fixture(name="run")
def _run(capsys):
    """Run the module without units; returns its result."""

    def run(paths, **options):
        with patch_module_args({"paths": [str(path) for path in paths], **options}), pytest.raises(SystemExit):
            teardown.main()
        return json.loads(capsys.readouterr().out)

    return run


def test_it_deletes_files_folders_and_links_but_not_what_they_lead_to(run, tmp_path):
    kept, folder, link = tmp_path / "kept", tmp_path / "folder", tmp_path / "link"
    kept.mkdir()
    (kept / "file").write_text("kept")
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/file").write_text("12345")
    (folder / "out").symlink_to(kept)
    link.symlink_to(kept)
    paths = [folder, link, tmp_path / "nothing"]
    planned = run(paths, _ansible_check_mode=True, _ansible_diff=True)
    assert planned["changed"]
    assert f"{folder}: 1 files, 5 bytes" in planned["diff"]["before"]
    assert (folder / "deep/file").exists()
    done = run(paths)
    assert done["removed"] == [str(folder), str(link)]
    assert os.listdir(tmp_path) == ["kept"]
    assert (kept / "file").read_text() == "kept"
    assert not run(paths)["changed"]


def test_a_refusal_deletes_nothing(run, tmp_path):
    (tmp_path / "file").write_text("kept")
    result = run([tmp_path / "file", "/etc"])
    assert result["failed"]
    assert "Nothing was stopped or deleted: /etc belongs to the system" in result["msg"]
    assert (tmp_path / "file").exists()
