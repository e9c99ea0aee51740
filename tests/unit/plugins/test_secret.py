# SPDX-License-Identifier: Apache-2.0
"""The secret lookup: one secret for all who ask, whole or not at all, private."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.holdfast.persistence.plugins.lookup.secret import read_or_make

from .conftest import Evaluate

ROOT = Path(__file__).resolve().parents[3]
PROCESSES = 8


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def ask(arguments: tuple[str, str]) -> str:
    return read_or_make(arguments[0], arguments[1], 32)


def test_makes_a_secret_once_and_remembers_it(tmp_path: Path) -> None:
    folder = str(tmp_path / "secrets")
    first = read_or_make(folder, "one", 32)
    assert re.fullmatch(r"[A-Za-z0-9]{32}", first)
    assert read_or_make(folder, "one", 64) == first
    assert read_or_make(folder, "two", 32) != first


def test_length_counts_characters(tmp_path: Path) -> None:
    assert len(read_or_make(str(tmp_path), "long", 100)) == 100


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_files_and_folder_are_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "inventory" / ".secrets"
    before = os.umask(umask)
    try:
        read_or_make(str(folder), "one", 32)
    finally:
        os.umask(before)
    assert mode(folder) == 0o700
    assert mode(folder / "one") == 0o600


def test_git_ignores_a_new_folder(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    read_or_make(str(tmp_path / ".secrets"), "one", 32)
    status = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert status.stdout == ""


def test_a_secret_that_a_person_wrote_is_used_without_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("from the vault\n")
    assert read_or_make(str(tmp_path), "one", 32) == "from the vault"
    assert names(tmp_path) == {"one"}


@pytest.mark.parametrize("content", ["", "\n", "  \n"])
def test_an_empty_file_is_an_error_and_stays(tmp_path: Path, content: str) -> None:
    (tmp_path / "one").write_text(content)
    with pytest.raises(ValueError, match=r"one is empty: write the secret into it, or delete it"):
        read_or_make(str(tmp_path), "one", 32)
    assert (tmp_path / "one").read_text() == content


@pytest.mark.parametrize("name", ["", ".", "..", "../outside", "folder/one", ".gitignore"])
def test_a_name_that_is_no_plain_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a secret"):
        read_or_make(str(tmp_path / "secrets"), name, 32)
    assert names(tmp_path) == set()


def test_processes_that_ask_at_once_get_one_secret(tmp_path: Path) -> None:
    questions = [
        (str(tmp_path / "secrets"), f"secret{number}") for number in range(25) for _process in range(PROCESSES)
    ]
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        answers = pool.map(ask, questions, chunksize=1)
    by_name: dict[str, set[str]] = {}
    for (_folder, name), answer in zip(questions, answers, strict=True):
        by_name.setdefault(name, set()).add(answer)
    assert {name: len(values) for name, values in by_name.items()} == {f"secret{number}": 1 for number in range(25)}
    assert names(tmp_path / "secrets") == {*by_name, ".gitignore"}


# Stops a process for good in the middle of writing: after the bytes, before the name.
KILLED = """
import os, signal, sys
from ansible_collections.holdfast.persistence.plugins.lookup import secret
setattr(os, sys.argv[2], lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
secret.read_or_make(sys.argv[1], "one", 32)
"""


@pytest.mark.parametrize("step", ["fsync", "link"])
def test_a_killed_process_leaves_no_half_secret(tmp_path: Path, step: str) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path, step],
        env={**os.environ, "PYTHONPATH": str(ROOT / ".link")},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "one").exists()
    assert re.fullmatch(r"[A-Za-z0-9]{32}", read_or_make(str(tmp_path), "one", 32))


# What a run knows after preflight has judged.
JUDGED = {"__preflight_verdict": {"failed": False}}


def test_the_lookup_returns_one_secret_for_each_name(tmp_path: Path, evaluate: Evaluate) -> None:
    template = "{{ query('holdfast.persistence.secret', 'one', 'two', 'one', dir=folder, length=40) }}"
    one, two, again = evaluate(template, folder=str(tmp_path / "secrets"), **JUDGED)["msg"]
    assert (len(one), len(two)) == (40, 40)
    assert one == again != two
    assert (tmp_path / "secrets/two").read_text() == two + "\n"


def test_the_lookup_fails_the_task_and_names_the_file(tmp_path: Path, evaluate: Evaluate) -> None:
    (tmp_path / "one").touch()
    result = evaluate("{{ lookup('holdfast.persistence.secret', 'one', dir=folder) }}", folder=str(tmp_path))
    assert result["failed"]
    assert f"secret: the file {tmp_path}/one is empty: write the secret into it, or delete it" in result["msg"]


def test_the_lookup_reports_a_folder_it_cannot_make(tmp_path: Path, evaluate: Evaluate) -> None:
    (tmp_path / "file").touch()
    template = "{{ lookup('holdfast.persistence.secret', 'one', dir=folder) }}"
    result = evaluate(template, folder=str(tmp_path / "file"), **JUDGED)
    assert result["failed"]
    assert f"{tmp_path}/file" in result["msg"]


def test_a_run_without_a_look_at_the_hosts_makes_no_secret(tmp_path: Path, evaluate: Evaluate) -> None:
    folder = tmp_path / "secrets"
    result = evaluate("{{ lookup('holdfast.persistence.secret', 'one', dir=folder) }}", folder=str(folder))
    assert result["failed"]
    assert f"the file {folder}/one is missing, and only site.yml makes secrets" in result["msg"]
    assert "bring the folder" in result["msg"]
    assert not folder.exists()


def test_check_mode_makes_no_secret(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert len(read_or_make(str(folder), "one", 40, check_mode=True)) == 40
    assert not folder.exists()
    made = read_or_make(str(folder), "one", 40)
    assert read_or_make(str(folder), "one", 40, check_mode=True, may_make=False) == made
