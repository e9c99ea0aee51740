# SPDX-License-Identifier: Apache-2.0
"""A restore's steps on a made-up host, on which any action may be the last one before the run is killed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest import steps
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from hypothesis import given
from hypothesis import strategies as st

PLACES = steps.Places("/data/17", "20260131T120000Z", "/spool/archive")
WISH = {"type": "time", "target": "2026-01-31 12:00:00+00:00", "label": "", "timeline": 0, "exclusive": False}
FORWARD = ("aside", "restore", "prove", *(f"mark {name}" for name in steps.MARKS))
BACK = ("back", "forget")


class KilledError(Exception):
    """The run ended here."""


@dataclass
class Host:
    """A host: the content of its directories, the directory that a server runs in, and the state file."""

    folders: dict[str, str] = field(default_factory=lambda: {PLACES.data: "old", PLACES.spool: "old WAL"})
    running: str = ""
    state: dict[str, Any] = field(default_factory=lambda: {"wish": WISH, "reached": steps.PLANNED})
    linked: bool = False
    left: int = 10_000

    def seen(self) -> steps.Seen:
        return steps.Seen(
            state=dict(self.state),
            data=PLACES.data in self.folders,
            aside=PLACES.aside in self.folders,
            spool=PLACES.spool in self.folders,
            running=bool(self.running) and self.running == PLACES.data,
            linked=self.linked,
            kept=tuple(sorted(path for path in self.folders if path.startswith(f"{PLACES.data}."))),
        )

    def step(self, words: str) -> bool:
        """Run a step; return whether there was anything to do."""
        name, _space, mark = words.partition(" ")
        actions = steps.next_actions(name, PLACES, self.seen(), mark)
        for action in actions:
            self.do(action)
        return bool(actions)

    def do(self, action: steps.Action) -> None:
        self.left -= 1
        if self.left < 0:
            if action.verb == steps.FILL:
                self.folders[action.path] = "half"
            if action.verb == steps.REMOVE:
                self.folders[action.path] += ", half removed"
            raise KilledError
        if action.verb == steps.RENAME:
            assert action.to not in self.folders, "a rename would hit what is there"
            assert self.running != action.path, "a directory is renamed under a server"
            self.folders[action.to] = self.folders.pop(action.path)
        elif action.verb == steps.REMOVE:
            assert self.running != action.path
            del self.folders[action.path]
        elif action.verb == steps.MAKE:
            assert action.path not in self.folders
            self.folders[action.path] = "empty"
        elif action.verb == steps.FILL:
            assert self.folders[action.path] == "empty", "pgBackRest refuses a directory that has files"
            self.folders[action.path] = "restored"
        elif action.verb == steps.START:
            assert self.folders[action.path] in ("restored", "recovered") and not self.running
            self.running = action.path
        elif action.verb == steps.PROVE:
            assert self.running == action.path
            self.folders[action.path], self.running = "recovered", ""
        elif action.verb == steps.STOP:
            self.running = ""
        elif action.verb == steps.SAVE:
            self.state = {**self.state, **action.changes}
        else:
            assert action.verb == steps.FORGET
            self.state = {}


def run(host: Host, names: tuple[str, ...], kills: list[int]) -> None:
    """Run steps from the first one on, again after each kill."""
    for after in [*kills, 10_000]:
        host.left = after
        try:
            for name in names:
                host.step(name)
            return
        except KilledError:
            assert "old" in host.folders.values(), "the old data is gone"


def test_a_restore_ends_with_the_old_data_kept():
    host = Host()
    run(host, FORWARD, [])
    assert host.folders == {PLACES.data: "recovered", PLACES.aside: "old"}
    assert host.state["reached"] == steps.DONE
    host.step("cleanup")
    assert host.folders == {PLACES.data: "recovered"}


@given(st.booleans(), st.lists(st.integers(0, 12), max_size=6))
def test_killed_between_any_two_actions_the_next_run_ends_the_same(linked, kills):
    host, other = Host(linked=linked), Host()
    run(host, FORWARD, kills)
    run(other, FORWARD, [])
    assert (host.folders, host.state, host.running) == (other.folders, other.state, other.running)
    assert not any(host.step(name) for name in FORWARD[:3]), "a second run has nothing to do"


@given(st.booleans(), st.integers(0, 8), st.lists(st.integers(0, 4), max_size=4))
def test_it_goes_back_from_wherever_it_was_killed(linked, forward, kills):
    host = Host(linked=linked)
    host.left = forward
    try:
        for name in FORWARD[:3]:
            host.step(name)
    except KilledError:
        pass
    run(host, BACK, kills)
    assert host.folders[PLACES.data] == "old"
    assert (host.state, host.running) == ({}, "")


@pytest.mark.parametrize(
    ("step", "seen", "words"),
    [
        ("aside", steps.Seen(data=True, running=True), "PostgreSQL runs in /data/17: stop Patroni first"),
        ("aside", steps.Seen(data=True, obstacle="/data/17 is a mount point"), "is a mount point"),
        ("restore", steps.Seen(state={"reached": "planned"}, data=True), "before-20260131T120000Z is not there"),
        ("restore", steps.Seen(), "no restore is planned on this host"),
        ("back", steps.Seen(state={"reached": "leading"}, data=True, aside=True, running=True), "stop Patroni first"),
        ("cleanup", steps.Seen(state={"reached": "copied"}, kept=("/data/17.before-x",)), "is not finished"),
    ],
)
def test_what_a_step_refuses(step, seen, words):
    with pytest.raises(Refusal, match=words):
        steps.next_actions(step, PLACES, seen)


def test_a_step_needs_to_know_which_restore_it_belongs_to():
    for step in ("aside", "back"):
        with pytest.raises(Refusal, match="id is missing"):
            steps.next_actions(step, steps.Places("/data/17", "", "/spool"), steps.Seen(data=True))


def test_check_mode_does_not_miss_what_the_steps_before_would_have_left():
    seen = steps.Seen(state={"reached": "planned"}, data=True)
    assert steps.next_actions("restore", PLACES, seen, dry=True)
    # A real run has stopped PostgreSQL by then.
    runs = steps.Seen(state={"reached": "leading"}, data=True, running=True)
    assert steps.next_actions("aside", PLACES, runs, dry=True)
    assert steps.next_actions("back", PLACES, replace(runs, aside=True), dry=True)


def test_an_unfinished_restore_goes_on_only_with_its_own_target():
    state = {"wish": WISH, "reached": "restored"}
    assert steps.goes_on(state, WISH)
    assert not steps.goes_on({}, WISH)
    assert not steps.goes_on({**state, "reached": "done"}, {**WISH, "target": "x"})
    with pytest.raises(Refusal, match=r"to time 2026-01-31 12:00:00\+00:00 is not finished \(reached: restored\)"):
        steps.goes_on(state, {**WISH, "target": "x"})


def test_a_target_that_was_not_reached_is_explained():
    log = "\n".join(
        [
            *(f"line {number}" for number in range(30)),
            "FATAL: recovery ended before configured recovery target was reached",
        ]
    )
    told = steps.why_stopped(log)
    assert "restore_action=back" in told and "restore_label" in told
    assert "line 29" in told and "line 3 " not in told
    assert "restore_label" not in steps.why_stopped("FATAL: something else")


@given(st.lists(st.integers(0, 2), max_size=3))
def test_a_replica_whose_directory_is_a_link_finds_an_empty_one_behind_it(kills):
    host = Host(linked=True, state={})
    run(host, ("aside",), kills)
    assert host.folders == {PLACES.data: "empty", PLACES.aside: "old", PLACES.spool: "old WAL"}
    assert not host.step("aside")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"mount": True}, "/data/17 is a mount point, which can't be renamed"),
        ({"tablespaces": True}, "has tablespaces"),
        ({"wal": "/wal/17"}, "pg_wal in /data/17 is a link to /wal/17: let patroni_wal_dir lead there"),
        ({"wal": "/wal/17", "wal_dir": "/other/orders"}, "let patroni_wal_dir lead there"),
    ],
)
def test_what_cannot_be_moved_aside_is_known_beforehand(fault, words):
    sound = {"mount": False, "tablespaces": False, "wal": "/wal/orders", "wal_dir": "/wal/orders"}
    assert steps.obstacle("/data/17", **sound) == ""
    assert words in steps.obstacle("/data/17", **{**sound, "wal_dir": "", **fault})
