# SPDX-License-Identifier: Apache-2.0
"""WAL on a disk of its own goes where its data directory goes, whenever the run is killed."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest import wal_place
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


class KilledError(Exception):
    """The run ended here."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory whose WAL is elsewhere."""
    (tmp_path / "wal/orders").mkdir(parents=True)
    (tmp_path / "wal/orders/000000010000000000000001").write_text("old")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/pg_wal").symlink_to(tmp_path / "wal/orders")
    return tmp_path / "data"


def killed_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Let a run end before one of the calls that change a file system."""
    left = [calls]
    for name in ("rename", "replace", "symlink", "unlink", "mkdir", "rmdir"):
        real = getattr(wal_place.os, name)

        def limited(*arguments, _real=real, **options):
            left[0] -= 1
            if left[0] < 0:
                raise KilledError
            return _real(*arguments, **options)

        monkeypatch.setattr(wal_place.os, name, limited)


@pytest.mark.parametrize("calls", range(6))
def test_a_rename_takes_the_wal_along(data: Path, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    aside, wal = data.with_name("data.before-1"), data.parent / "wal/orders"
    with monkeypatch.context() as patch:
        killed_after(patch, calls)
        try:
            wal_place.rename(str(data), str(aside), str(wal), ".before-1")
        except KilledError:
            assert data.exists()
    if data.exists():
        wal_place.rename(str(data), str(aside), str(wal), ".before-1")
    assert (aside / "pg_wal").resolve() == wal.with_name("orders.before-1")
    assert (aside / "pg_wal/000000010000000000000001").read_text() == "old"
    assert sorted(path.name for path in wal.parent.iterdir()) == ["orders.before-1"]
    assert not (aside / "pg_wal.new").is_symlink()


def test_it_comes_back_to_its_place(data: Path) -> None:
    aside, wal = data.with_name("data.before-1"), data.parent / "wal/orders"
    wal_place.rename(str(data), str(aside), str(wal), ".before-1")
    wal_place.rename(str(aside), str(data), str(wal), "")
    assert wal_place.target(str(data)) == str(wal)
    assert (data / "pg_wal/000000010000000000000001").read_text() == "old"


def test_a_directory_with_its_own_wal_is_only_renamed(tmp_path: Path) -> None:
    (tmp_path / "data/pg_wal").mkdir(parents=True)
    wal_place.rename(str(tmp_path / "data"), str(tmp_path / "aside"), str(tmp_path / "wal/orders"), ".before-1")
    assert (tmp_path / "aside/pg_wal").is_dir()
    assert wal_place.target(str(tmp_path / "aside")) == ""


@pytest.mark.parametrize("calls", range(6))
def test_restored_data_gets_a_place_for_its_wal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    data, wal = tmp_path / "data", tmp_path / "wal/orders"
    wal.parent.mkdir()
    (data / "pg_wal/archive_status").mkdir(parents=True)
    with monkeypatch.context() as patch:
        killed_after(patch, calls)
        with contextlib.suppress(KilledError):
            wal_place.place(str(data), str(wal))
    wal_place.place(str(data), str(wal))
    wal_place.place(str(data), str(wal))
    assert wal_place.target(str(data)) == str(wal)
    assert oct(wal.stat().st_mode & 0o777) == "0o700"


def test_foreign_wal_is_never_deleted_for_it(data: Path, tmp_path: Path) -> None:
    (tmp_path / "new/pg_wal").mkdir(parents=True)
    with pytest.raises(Refusal, match="orders holds 000000010000000000000001"):
        wal_place.place(str(tmp_path / "new"), str(tmp_path / "wal/orders"))


def test_what_is_removed_goes_with_its_wal(data: Path) -> None:
    wal_place.remove(str(data))
    assert [path.name for path in data.parent.iterdir()] == ["wal"]
    assert list((data.parent / "wal").iterdir()) == []
