# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What to do with one systemd unit. No I/O.

A unit must be restarted when the files that its running process loaded are not the files on disk. What was loaded is
remembered as a record (digests by path) together with the unit's InvocationID, which systemd changes at every start.
So a run that is killed after a file was written and before the unit was restarted is completed by the next run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

# systemctl(1) show: the properties that parse_status() needs, read by one call.
PROPERTIES = (
    "ActiveState",
    "CanReload",
    "ConditionResult",
    "ConditionTimestampMonotonic",
    "DropInPaths",
    "FragmentPath",
    "InactiveExitTimestampMonotonic",
    "InvocationID",
    "LoadError",
    "LoadState",
    "NeedDaemonReload",
    "SubState",
    "Type",
    "UnitFileState",
)

# Where systemd looks for units and their drop-ins, first wins (systemd.unit(5), without generators and transient units).
SEARCH_PATH = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
)

# File systems stamp ctime from a clock that ticks up to 10 ms late (CONFIG_HZ=100).
CLOCK_GRAIN = 0.05

ENABLED = frozenset({"enabled", "alias", "generated", "indirect"})
DISABLED = frozenset({"disabled", "enabled-runtime", ""})


@dataclass(frozen=True)
class Status:
    """A unit as systemd sees it. Times are seconds since the epoch; started_at is None if it never started."""

    load_state: str
    active_state: str
    sub_state: str = ""
    unit_file_state: str = ""
    unit_type: str = ""
    invocation_id: str = ""
    started_at: float | None = None
    can_reload: bool = False
    need_daemon_reload: bool = False
    condition_failed: bool = False
    load_error: str = ""
    fragment: str = ""
    drop_ins: tuple[str, ...] = ()

    @property
    def is_up(self) -> bool:
        """Whether a process with some loaded files is there."""
        return self.active_state in {"active", "reloading", "refreshing"}

    @property
    def is_starting(self) -> bool:
        """Whether a start is under way, also one that systemd repeats after a crash."""
        return self.active_state == "activating"


@dataclass(frozen=True)
class FileState:
    """One file on disk. digest is empty for a missing file; changed_at is its ctime in seconds since the epoch."""

    digest: str = ""
    changed_at: float | None = None


@dataclass(frozen=True)
class Record:
    """What the running unit loaded: digests by path, valid for one invocation only."""

    invocation_id: str
    digests: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text of the record's file."""
        return json.dumps({"invocation_id": self.invocation_id, "digests": dict(self.digests)}, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record | None:
        """Return the record written as text, or None where the text is not a record (it is then made anew)."""
        try:
            data = json.loads(text)
        except ValueError:
            return None
        if not isinstance(data, dict):
            return None
        invocation_id, digests = data.get("invocation_id"), data.get("digests")
        if not isinstance(invocation_id, str) or not isinstance(digests, dict):
            return None
        return cls(invocation_id, {str(path): str(digest) for path, digest in digests.items()})


@dataclass(frozen=True)
class Wish:
    """What the user asked for. pending: paths of files that will change (check mode only)."""

    name: str
    state: str = "started"
    enabled: bool | None = None
    restart_on: tuple[str, ...] = ()
    reload_on: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Actions in their order, and why.

    Actions: daemon_reload, enable, disable, reset_failed, start, restart, reload, stop, wait.
    `wait` joins a start that is under way and is no change; `reset_failed` only prepares a start.
    """

    actions: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def is_change(self) -> bool:
        """Whether carrying the plan out changes the host."""
        return any(action not in {"wait", "reset_failed"} for action in self.actions)


def parse_status(text: str, realtime: float, monotonic: float) -> Status:
    """Read the output of `systemctl show` (one KEY=value a line, org.freedesktop.systemd1 properties).

    Parameters: realtime and monotonic, both clocks read together, in seconds; systemd's *Monotonic stamps are
    microseconds of CLOCK_MONOTONIC, 0 meaning never.
    """
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    started = int(found.get("InactiveExitTimestampMonotonic") or 0)
    return Status(
        load_state=found.get("LoadState", ""),
        active_state=found.get("ActiveState", ""),
        sub_state=found.get("SubState", ""),
        unit_file_state=found.get("UnitFileState", ""),
        unit_type=found.get("Type", ""),
        invocation_id=found.get("InvocationID", ""),
        started_at=realtime - (monotonic - started / 1e6) if started else None,
        can_reload=found.get("CanReload") == "yes",
        need_daemon_reload=found.get("NeedDaemonReload") == "yes",
        condition_failed=found.get("ConditionResult") == "no"
        and int(found.get("ConditionTimestampMonotonic") or 0) > 0,
        load_error=found.get("LoadError", "").strip(),
        fragment=found.get("FragmentPath", ""),
        drop_ins=tuple(found.get("DropInPaths", "").split()),
    )


def unit_names(name: str) -> tuple[str, ...]:
    """Return the names under which a unit's file and drop-ins may stand: a@b.service also as a@.service."""
    stem, _dot, suffix = name.rpartition(".")
    if "@" not in stem or stem.endswith("@"):
        return (name,)
    return (name, stem.split("@", 1)[0] + "@." + suffix)


def has_unloaded_files(status: Status, fragments: Sequence[str], drop_ins: Sequence[str]) -> bool:
    """Return whether systemd has not loaded the unit's files as they are on disk, though it may not say so.

    NeedDaemonReload is answered from a cache of folders, so it misses new drop-in folders and new files that stand
    before the loaded one.

    Parameters: fragments and drop_ins, resolved paths of the files on disk in the order of SEARCH_PATH.
    """
    if not status.fragment:
        return False
    if fragments and fragments[0] != status.fragment:
        return True
    return any(path not in status.drop_ins for path in first_by_name(drop_ins))


def first_by_name(paths: Sequence[str]) -> list[str]:
    """Return the paths without those that an earlier one of the same file name hides."""
    found: dict[str, str] = {}
    for path in paths:
        found.setdefault(path.rpartition("/")[2], path)
    return list(found.values())


def differing(
    paths: Iterable[str], files: Mapping[str, FileState], status: Status, record: Record | None
) -> tuple[str, ...]:
    """Return those of paths that the running unit has not loaded as they are on disk.

    A path in a record of this very invocation is compared by digest. Any other path counts as loaded if the file
    has not changed since the unit began to start (processes read their files at or after their start).
    """
    known: Mapping[str, str] = {}
    if record is not None and status.invocation_id and record.invocation_id == status.invocation_id:
        known = record.digests
    return tuple(path for path in paths if _differs(files.get(path, FileState()), known.get(path), status.started_at))


def _differs(file: FileState, loaded: str | None, started_at: float | None) -> bool:
    if loaded is not None:
        return file.digest != loaded
    if file.changed_at is None:
        return False
    return started_at is None or file.changed_at > started_at - CLOCK_GRAIN


def make_plan(wish: Wish, status: Status, files: Mapping[str, FileState], record: Record | None) -> Plan:
    """Return what to do to bring the unit from status to wish. Raises Refusal where that is impossible."""
    _refuse_impossible(wish, status)
    unit_files, unit_reasons = _plan_unit_files(wish, status)
    running, running_reasons = (
        _plan_stopped(status) if wish.state == "stopped" else _plan_started(wish, status, files, record)
    )
    return Plan(unit_files + running, unit_reasons + running_reasons)


def _refuse_impossible(wish: Wish, status: Status) -> None:
    if status.load_state == "masked" and (wish.state == "started" or wish.enabled):
        raise Refusal(
            f"{wish.name}: the unit is masked", f"Somebody masked it on purpose; run `systemctl unmask {wish.name}`"
        )
    if status.load_state in {"error", "bad-setting"}:
        raise Refusal(
            f"{wish.name}: systemd cannot load the unit ({status.load_error or status.load_state})",
            f"See `systemctl status {wish.name}` and `systemd-analyze verify {wish.name}`",
        )
    if wish.enabled and status.unit_file_state == "static":
        raise Refusal(
            f"{wish.name}: the unit has no [Install] section, so it cannot be enabled",
            "Leave `enabled` out, or enable the unit that starts it",
        )


def _plan_unit_files(wish: Wish, status: Status) -> tuple[tuple[str, ...], tuple[str, ...]]:
    actions: list[str] = []
    reasons: list[str] = []
    if status.need_daemon_reload:
        actions.append("daemon_reload")
        reasons.append("the unit's file or a drop-in changed on disk")
    if wish.enabled is True and status.unit_file_state not in ENABLED:
        actions.append("enable")
        reasons.append(f"the unit is {status.unit_file_state or 'not enabled'}")
    if wish.enabled is False and status.unit_file_state not in DISABLED | {"static", "masked"}:
        actions.append("disable")
        reasons.append(f"the unit is {status.unit_file_state}")
    return tuple(actions), tuple(reasons)


def _plan_stopped(status: Status) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if status.active_state in {"inactive", "failed", ""}:
        return (), ()
    return ("stop",), (f"the unit is {status.active_state}",)


def _plan_started(
    wish: Wish, status: Status, files: Mapping[str, FileState], record: Record | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if not status.is_up and not status.is_starting:
        prepare = ("reset_failed",) if status.active_state == "failed" else ()
        return (*prepare, "start"), (f"the unit is {status.active_state or 'not there'}",)
    stale_restart = differing(wish.restart_on, files, status, record)
    stale_reload = differing(wish.reload_on, files, status, record)
    action = _refresh_action(wish, status, bool(stale_restart), bool(stale_reload))
    reasons = [f"{path} is not as the running unit loaded it" for path in (*stale_restart, *stale_reload)]
    if action and not reasons:
        loads = (*wish.restart_on, *wish.reload_on)
        reasons = [f"{path} would change" for path in wish.pending if path in loads]
    if action == "restart" and status.sub_state.startswith("auto-restart"):
        return ("reset_failed", action), tuple(reasons)
    if action:
        return (action,), tuple(reasons)
    return (("wait",), ()) if status.is_starting else ((), ())


def _refresh_action(wish: Wish, status: Status, stale_restart: bool, stale_reload: bool) -> str:
    """Return restart, reload or nothing; a unit that cannot reload, or is only starting, is restarted."""
    if stale_restart or set(wish.pending) & set(wish.restart_on):
        return "restart"
    if stale_reload or set(wish.pending) & set(wish.reload_on):
        return "reload" if status.can_reload and status.is_up else "restart"
    return ""


def make_record(
    wish: Wish, status: Status, files: Mapping[str, FileState], former: Record | None = None
) -> Record | None:
    """Return what to remember after the plan was carried out, or None where no invocation is there to remember.

    Parameters: files, as they were read BEFORE the unit was started or reloaded; former, the record so far: what it
    knows of other paths stays, so that several tasks may care for different files of one unit.
    """
    if not status.invocation_id or not (status.is_up or status.is_starting):
        return None
    known = dict(former.digests) if former is not None and former.invocation_id == status.invocation_id else {}
    paths = (*wish.restart_on, *wish.reload_on)
    return Record(status.invocation_id, known | {path: files.get(path, FileState()).digest for path in paths})
