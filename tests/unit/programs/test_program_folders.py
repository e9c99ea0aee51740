# SPDX-License-Identifier: Apache-2.0
"""The module that replaces programs' folders, on folders of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.files import disk
from ansible_collections.holdfast.persistence.plugins.module_utils.programs import layout, remains
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.modules import program_folders

Run = Callable[..., dict[str, Any]]


def program(text: str, version: str = "0.2.0") -> dict[str, str]:
    """The files of a program that prints a text of its library."""
    files = {
        "__main__.py": layout.main_text("example"),
        "example.py": "from library.words import TEXT\n\n\ndef main():\n    print(TEXT)\n    return 0\n",
        "library/words.py": f"TEXT = {text!r}\n",
    }
    return {**files, layout.VERSION: layout.version_text(version, files)}


@pytest.fixture(name="library")
def _library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that stands for /usr/local/lib/holdfast."""
    library = tmp_path / "holdfast"
    library.mkdir()
    monkeypatch.setattr(layout, "FOLDER", f"{library}/programs")
    monkeypatch.setattr(program_folders, "FOLDER", f"{library}/programs")
    for module in (remains, program_folders):
        monkeypatch.setattr(module, "PLACES", (str(library), f"{library}/patroni"))
    monkeypatch.setattr(remains, "LIBRARY", str(library))
    monkeypatch.setattr(program_folders, "UNITS", str(tmp_path / "units"))
    (tmp_path / "units").mkdir()
    # Whoever runs the tests stands for root.
    monkeypatch.setattr(disk, "_user", lambda number: "root" if number == os.geteuid() else str(number))
    monkeypatch.setattr(disk, "_group", lambda number: "root" if number == os.getegid() else str(number))
    return library


@pytest.fixture(name="run")
def _run(library: Path) -> Run:
    """Run the module for one program."""

    def run(files: dict[str, str], check_mode: bool = False, name: str = "example") -> dict[str, Any]:
        params = {"programs": [{"name": name, "files": files, "commands": []}]}
        return program_folders.run(SimpleNamespace(params=params, check_mode=check_mode))  # type: ignore[arg-type]

    return run


def said(library: Path) -> str:
    """What the installed program prints."""
    return subprocess.run(
        [sys.executable, "-I", library / "programs" / "example"], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def names(library: Path) -> list[str]:
    return sorted(path.name for path in (library / "programs").iterdir())


def test_a_program_is_installed_once(run: Run, library: Path) -> None:
    first = run(program("one"))
    assert (first["changed"], first["programs"][0]["state"], first["replaced"]) == (True, "missing", ["example"])
    assert said(library) == "one\n"
    again = run(program("one"))
    assert (again["changed"], again["programs"][0]["state"], again["diff"]) == (False, "current", [])


def test_everybody_may_read_a_program_whatever_the_umask_is(run: Run, library: Path) -> None:
    library.rmdir()
    before = os.umask(0o077)
    try:
        run(program("one"))
    finally:
        os.umask(before)
    folders = [path for path in (library, *library.rglob("*")) if path.is_dir() and not path.is_symlink()]
    files = [path for path in library.rglob("*") if path.is_file()]
    assert {oct(path.stat().st_mode & 0o777) for path in folders} == {"0o755"}
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o644"}
    assert any(path.suffix == ".pyc" for path in files)


def test_check_mode_tells_the_same_and_changes_nothing(run: Run, library: Path) -> None:
    run(program("one"))
    before = names(library)
    told = run(program("two"), check_mode=True)
    assert names(library) == before and said(library) == "one\n"
    done = run(program("two"))
    assert {**told, "changed": None} == {**done, "changed": None}
    assert "-TEXT = 'one'" in told["diff"][0]["prepared"] and "+TEXT = 'two'" in told["diff"][0]["prepared"]
    assert said(library) == "two\n"


def test_code_that_the_new_build_has_not_is_gone(run: Run, library: Path) -> None:
    run({**program("one"), "library/old.py": ""})
    run(program("one"))
    assert not (library / "programs/example/library/old.py").exists()
    assert len(names(library)) == 2


@pytest.mark.parametrize("path", ["library/words.py", "more.py", "VERSION"])
def test_a_program_that_somebody_edited_is_named_and_mended(run: Run, library: Path, path: str) -> None:
    run(program("one"))
    (library / "programs/example" / path).write_text("TEXT = 'edited'\n")
    found = run(program("one"))
    assert (found["changed"], found["programs"][0]["state"]) == (True, "altered")
    assert said(library) == "one\n"
    assert run(program("one"))["changed"] is False


@pytest.mark.parametrize("lost", ["build", "link"])
def test_a_program_that_somebody_deleted_is_named_and_mended(run: Run, library: Path, lost: str) -> None:
    run(program("one"))
    link = library / "programs/example"
    if lost == "link":
        link.unlink()
    else:
        os.rename(link.resolve(), library / "elsewhere")
    found = run(program("one"))
    assert (found["changed"], found["programs"][0]["state"]) == (True, "missing")
    assert said(library) == "one\n"
    assert len(names(library)) == 2


def test_compiled_code_is_there_and_belongs_to_the_program(run: Run, library: Path) -> None:
    run(program("one"))
    compiled = list((library / "programs/example/library/__pycache__").iterdir())
    assert len(compiled) == 1
    # A traceback names the file where it stands, not where it was written.
    assert f"{library}/programs/example/library/words.py".encode() in compiled[0].read_bytes()


@pytest.mark.parametrize("step", ["write_files", "symlink", "replace"])
def test_an_installation_that_ends_anywhere_leaves_the_old_program(
    run: Run, library: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    run(program("one"))

    def end(*_arguments: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(program_folders if step == "write_files" else program_folders.os, step, end)
        with pytest.raises(OSError, match="no space left"):
            run(program("two"))
    assert said(library) == "one\n"
    run(program("two"))
    assert said(library) == "two\n"
    assert len(names(library)) == 2


def test_what_a_killed_installation_left_is_deleted(run: Run, library: Path) -> None:
    run(program("one"))
    (library / "programs/.example.abc/library").mkdir(parents=True)
    (library / "programs/.example.def.link").symlink_to(".example.def")
    (library / "programs/.example-two.abc").mkdir()
    assert run(program("one"), check_mode=True)["changed"] is True
    assert run(program("one"))["changed"] is True
    assert run(program("one"))["changed"] is False
    assert said(library) == "one\n"
    assert ".example-two.abc" in names(library) and len(names(library)) == 3


def test_a_program_that_is_not_wished_is_deleted(run: Run, library: Path) -> None:
    run(program("one"))
    assert run({}, check_mode=True)["changed"] is True
    assert said(library) == "one\n"
    assert run({})["changed"] is True
    assert names(library) == []
    assert run({})["changed"] is False


def test_what_is_not_ours_is_not_replaced(run: Run, library: Path) -> None:
    (library / "programs/example").mkdir(parents=True)
    with pytest.raises(
        Refusal,
        match=r"example is not a symbolic link: move it away and run again. Nothing was changed.",
    ):
        run(program("one"))


def test_remains_are_told_once_no_timer_calls_them(run: Run, library: Path, tmp_path: Path) -> None:
    (library / "ansible_collections").mkdir()
    (library / "example").write_text("from ansible_collections import x")
    (library / "restore-wal").write_text("#!/bin/sh")
    gone = [f"{library}/example", f"{library}/ansible_collections"]
    assert run(program("one"))["remains"] == gone
    timer = tmp_path / "units" / "example-job.service"
    timer.write_text(f"[Service]\nExecStart=/usr/bin/python3 {library}/example run\n")
    found = run(program("one"))
    assert (found["remains"], found["called"]) == ([], gone)
    # The program's own unit is about to be written anew.
    timer.rename(tmp_path / "units" / "example.service")
    assert run(program("one"))["remains"] == gone
