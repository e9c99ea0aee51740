# SPDX-License-Identifier: Apache-2.0
"""Files are replaced whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import (
    make_folders,
    read_text,
    replace_file,
)


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """A umask as administrators set it for root."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o700])
@pytest.mark.usefixtures("umask")
def test_missing_parents_have_the_mode_whatever_the_umask_is(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(0o711)
    make_folders(str(tmp_path / "one/two/three"), mode)
    made = [tmp_path / "one", tmp_path / "one/two", tmp_path / "one/two/three"]
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in made] == [mode] * 3
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o711
    make_folders(str(tmp_path / "one"), 0o700)
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == mode


def test_a_file_that_is_not_there_has_no_content(tmp_path: Path) -> None:
    assert read_text(str(tmp_path / "none")) == ""


@pytest.mark.parametrize("before", [None, "old"])
def test_content_and_mode_are_those_that_were_asked_for(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_text(before)
    replace_file(str(path), "neu ä\n", mode=0o640)
    assert read_text(str(path)) == "neu ä\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_judged_wrong_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    seen = []

    def judge(beside: str) -> None:
        seen.append(read_text(beside))
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        replace_file(str(path), "new", mode=0o600, judge=judge)
    assert seen == ["new"]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
