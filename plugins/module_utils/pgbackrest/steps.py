# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The steps of a restore on one host: what each does next, from what stands there. No I/O.

A step is a tuple of actions, each of which a machine does whole or can be killed in. A killed step is asked for again, sees what
is there, and gives what is left. The old data is never deleted but by `cleanup`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

# How far a restore is. A host reaches the first three by itself, a playbook marks the others.
PLANNED, RESTORED, PROVED = "planned", "restored", "proved"
DONE = "done"
MARKS = ("dropped", "leading", "copied", DONE)

# What actions do: rename path to another; remove a path; make an empty folder for PostgreSQL; let pgBackRest fill it; start
# PostgreSQL alone; wait for the end of recovery, ask the probes and stop; stop; write the state; delete its file.
RENAME, REMOVE, MAKE, FILL, START, PROVE, STOP, SAVE, FORGET = (
    "rename",
    "remove",
    "make",
    "fill",
    "start",
    "prove",
    "stop",
    "save",
    "forget",
)


@dataclass(frozen=True)
class Action:
    """One thing to do. path: what it is about; to: the new name; changes: of the state."""

    verb: str
    path: str = ""
    to: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Places:
    """Names on the host. id: of the restore, empty where none is known; spool: pgBackRest's WAL that it fetched for the old data."""

    data: str
    id: str
    spool: str

    @property
    def aside(self) -> str:
        """Where the old data is kept."""
        return f"{self.data}.before-{self.id}"

    @property
    def restored(self) -> str:
        """Where restored data goes that nobody wants."""
        return f"{self.data}.restored-{self.id}"


@dataclass(frozen=True)
class Seen:
    """What stands on the host.

    state: how far the restore is, empty where there is none. data, aside, spool: whether these are there. running: whether
    PostgreSQL runs in the data directory. obstacle: why that can't be moved aside. linked: whether its name is a symbolic link to
    the place where it is. kept: directories that restores have kept.
    """

    state: Mapping[str, Any] = field(default_factory=dict)
    data: bool = False
    aside: bool = False
    spool: bool = False
    running: bool = False
    obstacle: str = ""
    linked: bool = False
    kept: tuple[str, ...] = ()

    @property
    def reached(self) -> str:
        """How far the restore is, empty where there is none."""
        return self.state.get("reached", "")


def next_actions(step: str, places: Places, seen: Seen, mark: str = "", dry: bool = False) -> tuple[Action, ...]:
    """Return what is left to do of a step, nothing where it is done.

    Parameters: step; mark, what the step `mark` writes down; dry, whether the steps before were only looked at, so that nobody can
    miss what they leave: neither old data aside nor a PostgreSQL that was stopped. Raises Refusal.
    """
    if step in ("aside", "back") and not places.id:
        raise Refusal("id is missing")
    if step in ("restore", "prove") and not (seen.state or dry):
        raise Refusal("no restore is planned on this host", "Begin with the step plan")
    left: dict[str, Callable[[], tuple[Action, ...]]] = {
        "aside": lambda: _aside(places, seen, dry),
        "restore": lambda: _restore(places, seen, dry),
        "prove": lambda: _prove(places, seen),
        "mark": lambda: (Action(SAVE, changes={"reached": mark}),) if seen.state and seen.reached != mark else (),
        "back": lambda: _back(places, seen, dry),
        "forget": lambda: (Action(FORGET),) if seen.state else (),
        "cleanup": lambda: _cleanup(seen),
    }
    return left[step]()


def obstacle(data: str, *, mount: bool, tablespaces: bool, wal: str, wal_dir: str) -> str:
    """Return why a data directory can't be moved aside, an empty string where it can.

    Parameters: mount, whether it is a file system's own folder; tablespaces, whether it has any; wal, the folder behind its link
    pg_wal; wal_dir, the one that the inventory asks for.
    """
    if mount:
        return (
            f"{data} is a mount point, which can't be renamed: stop Patroni, move its content into a folder below it, and let "
            "patroni_data_dir and Patroni's data_dir be that folder, on one host after the other"
        )
    if tablespaces:
        return f"{data} has tablespaces, which this kind of restore cannot move aside"
    if wal and not (wal_dir and wal.startswith(wal_dir)):
        return f"pg_wal in {data} is a link to {wal}: let patroni_wal_dir lead there, so that the WAL is kept with its data"
    return ""


def _aside(places: Places, seen: Seen, dry: bool) -> tuple[Action, ...]:
    # Where the name is a link, whoever fills the directory anew must find one behind it.
    if seen.aside or not seen.data:
        return (Action(MAKE, places.data),) if seen.linked and seen.aside and not seen.data else ()
    if not dry:
        _refuse_running(places, seen)
    if seen.obstacle:
        raise Refusal(seen.obstacle)
    made = (Action(MAKE, places.data),) if seen.linked else ()
    return (Action(RENAME, places.data, places.aside), *made)


def _restore(places: Places, seen: Seen, dry: bool) -> tuple[Action, ...]:
    if seen.reached != PLANNED:
        return ()
    if not places.id or not (seen.aside or dry):
        raise Refusal(
            f"{places.aside} is not there: the old data must be moved aside first" if places.id else "id is missing"
        )
    # What an interrupted restore left. The old data is aside, and PostgreSQL was never started in here.
    left = [path for path, there in ((places.data, seen.data), (places.spool, seen.spool)) if there]
    fresh = (Action(MAKE, places.data), Action(FILL, places.data), Action(SAVE, changes={"reached": RESTORED}))
    return (*(Action(REMOVE, path) for path in left), *fresh)


def _prove(places: Places, seen: Seen) -> tuple[Action, ...]:
    if seen.reached != RESTORED:
        return ()
    start = () if seen.running else (Action(START, places.data),)
    return (*start, Action(PROVE, places.data), Action(SAVE, changes={"reached": PROVED}))


def _back(places: Places, seen: Seen, dry: bool) -> tuple[Action, ...]:
    if not seen.aside:
        return ()
    # What a killed `prove` left running is ended here; anything else is not ours.
    if seen.reached != RESTORED and not dry:
        _refuse_running(places, seen)
    away = (Action(RENAME, places.data, places.restored),) if seen.data else ()
    stop = (Action(STOP, places.data),) if seen.data and seen.running else ()
    return (*stop, *away, Action(RENAME, places.aside, places.data))


def _cleanup(seen: Seen) -> tuple[Action, ...]:
    if seen.state and seen.reached != DONE:
        raise Refusal(f"a restore is not finished (reached: {seen.reached}): finish it, or undo it first")
    return tuple(Action(REMOVE, path) for path in seen.kept)


def _refuse_running(places: Places, seen: Seen) -> None:
    if seen.data and seen.running:
        raise Refusal(f"PostgreSQL runs in {places.data}: stop Patroni first")


def goes_on(state: Mapping[str, Any], wish: Mapping[str, Any]) -> bool:
    """Whether a restore with this wish is under way already. Raises Refusal where another one is."""
    if not state or state["reached"] == DONE:
        return False
    if state["wish"] != wish:
        raise Refusal(
            f"a restore to {state['wish']['type']} {state['wish']['target']} is not finished (reached: {state['reached']}): "
            "continue with the same target, or go back with restore_action=back"
        )
    return True


def why_stopped(log: str, lines: int = 15) -> str:
    """Return what to do after a recovery that failed, and the last lines of the server's log."""
    told = log.splitlines()
    remedy = "Go back with restore_action=back, then restore to another target"
    if any("recovery ended before configured recovery target was reached" in line for line in told):
        remedy += ", or begin with an older backup (restore_label) where the target lies before the one chosen"
    return f"{remedy}. It said: " + " / ".join(told[-lines:])
