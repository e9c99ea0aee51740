# SPDX-License-Identifier: Apache-2.0
"""How a program's folder on a host compares with the collection's, and what earlier releases left."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.files.wish import Found
from ansible_collections.holdfast.persistence.plugins.module_utils.programs import folder, layout
from ansible_collections.holdfast.persistence.plugins.module_utils.programs.remains import (
    CODE,
    PLACES,
    Old,
    remains_of,
)
from hypothesis import given
from hypothesis import strategies as st

LIBRARY = layout.LIBRARY
PATH = layout.path_of("example")


def program(version: str = "0.2.0", text: str = "one") -> dict[str, str]:
    """The files of a program."""
    files = {"__main__.py": layout.main_text("example"), "example.py": text}
    return {**files, layout.VERSION: layout.version_text(version, files)}


def on_host(files: Mapping[str, str], owner: str = "root", mode: int = 0o644) -> folder.Build:
    """A build of these files."""
    return folder.Build(True, {path: Found("file", text.encode(), owner, owner, mode) for path, text in files.items()})


def state(build: folder.Build) -> folder.State:
    return folder.state_of("example", PATH, program(), build)


def test_a_program_as_it_should_be_is_current() -> None:
    assert state(on_host(program())).state == "current"
    assert folder.diff_of(PATH, program(), on_host(program())) == ""


def test_a_program_that_is_not_there_is_missing() -> None:
    found = state(folder.Build())
    assert (found.state, found.version, found.found) == ("missing", "", f"{PATH} is missing")


@pytest.mark.parametrize(
    "other", [program("0.1.9"), program("0.3.0"), program(text="another build of the same version")]
)
def test_a_whole_build_of_another_collection_is_outdated(other: dict[str, str]) -> None:
    found = state(on_host(other))
    assert (found.state, found.version) == ("outdated", other[layout.VERSION].strip())
    assert found.found == f"version {found.version}"
    assert found.wanted == program()[layout.VERSION].strip()


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (on_host({**program(), "example.py": "edited"}), "example.py content differs"),
        (on_host({**program("0.1.9"), "example.py": "edited"}), "example.py content differs"),
        (on_host({path: text for path, text in program().items() if path != "example.py"}), "example.py is missing"),
        (on_host({path: text for path, text in program().items() if path != "VERSION"}), "VERSION is missing"),
        (on_host({**program(), "VERSION": ""}), "VERSION content differs"),
        (on_host({**program(), "more.py": ""}), "more.py does not belong there"),
        (on_host(program(), owner="postgres"), "example.py belongs to postgres:postgres, not root:root"),
        (on_host(program(), mode=0o666), "example.py has mode 0666, not 0644"),
    ],
)
def test_what_no_build_had_is_altered(build: folder.Build, said: str) -> None:
    found = state(build)
    assert found.state == "altered"
    assert said in found.found
    assert folder.diff_of(PATH, program(), build) != ""


def test_a_digest_tells_names_from_contents() -> None:
    assert layout.digest_of({"a": "bc"}) != layout.digest_of({"ab": "c"})
    assert layout.digest_of({"a": "b", "VERSION": "1"}) == layout.digest_of({"a": "b", "VERSION": "2"})


def old(
    *files: str, scripts: tuple[str, ...] = (), code: tuple[str, ...] = PLACES, called: tuple[str, ...] = ()
) -> Old:
    """What a host of release 0.1 has: files below LIBRARY, of which scripts import nothing."""
    return Old(
        {f"{LIBRARY}/{name}": name not in scripts for name in (*files, *scripts)},
        code,
        [f"{LIBRARY}/{name}" for name in called],
    )


def test_the_shared_code_stays_for_the_program_that_still_uses_it() -> None:
    host = old("valkey-respread", "holdfast-backup", scripts=("restore-wal",), code=(LIBRARY,))
    assert remains_of(["valkey-respread"], [], host) == [f"{LIBRARY}/valkey-respread"]
    both = remains_of(["valkey-respread", "holdfast-backup"], [], host)
    assert both == [f"{LIBRARY}/holdfast-backup", f"{LIBRARY}/valkey-respread", f"{LIBRARY}/ansible_collections"]


def test_a_program_that_a_timer_calls_stays_with_its_code() -> None:
    host = old("holdfast-backup", code=(LIBRARY,), called=("holdfast-backup",))
    assert remains_of(["holdfast-backup"], [], host) == []


def test_a_folder_in_which_nothing_is_left_goes_as_a_whole() -> None:
    host = old("patroni/patroni-guard", "patroni/patroni-follow", code=(f"{LIBRARY}/patroni",))
    assert remains_of(["patroni-guard"], [], host) == [f"{LIBRARY}/patroni/patroni-guard"]
    assert f"{LIBRARY}/patroni" in remains_of(["patroni-guard", "patroni-follow", "patroni-fencing"], [], host)


def test_scripts_beside_the_code_and_paths_that_are_still_called_stay() -> None:
    host = old(
        "pgbouncer/pgbouncer-hold",
        scripts=("pgbouncer/pgbouncer-serve", "pgbouncer/pgbouncer-reload"),
        code=(f"{LIBRARY}/pgbouncer",),
    )
    found = remains_of(["pgbouncer-hold", "pgbouncer-reload"], [f"{LIBRARY}/pgbouncer/pgbouncer-reload"], host)
    assert found == [f"{LIBRARY}/pgbouncer/pgbouncer-hold", f"{LIBRARY}/pgbouncer/ansible_collections"]


def test_a_host_without_an_earlier_release_has_no_remains() -> None:
    assert remains_of(["patroni-guard"], [], Old({}, ())) == []


ENTRIES = st.dictionaries(
    st.tuples(st.sampled_from(PLACES), st.sampled_from(["one", "two", "three", "script"])).map("/".join), st.booleans()
)


@given(ENTRIES, st.sets(st.sampled_from(["one", "two", "three"])), st.sets(st.sampled_from(PLACES)))
def test_no_code_goes_while_a_file_beside_it_imports_it(
    files: dict[str, bool], moved: set[str], code: set[str]
) -> None:
    gone = remains_of(moved, [], Old(files, sorted(code)))
    for path, imports in files.items():
        place, _slash, name = path.rpartition("/")
        assert (path in gone) == (name in moved)
        if imports and name not in moved:
            assert f"{place}/{CODE}" not in gone and place not in gone
        if name not in moved:
            assert place not in gone
