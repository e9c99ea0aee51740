# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""How far back a cluster can be taken, and from which backup. No I/O."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest.repository import (
    Backup,
    Stanza,
    format_lsn,
    parse_lsn,
    timeline_of,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

KINDS = ("latest", "time", "lsn", "xid", "name", "backup")

_LARGEST_XID = 2**32 - 1
_FIRST_XID = 3
_LONGEST_NAME = 63
_LABEL = re.compile(r"^\d{8}-\d{6}F(_\d{8}-\d{6}[DI])?$")
_HISTORY_LINE = re.compile(r"^\s*(\d+)\s+([0-9A-Fa-f]+/[0-9A-Fa-f]+)")


@dataclass(frozen=True)
class Target:
    """Where recovery ends. moment is in seconds since 1970 for a time, position in bytes for an LSN."""

    kind: str
    value: str = ""
    moment: float = 0.0
    position: int = 0


@dataclass(frozen=True)
class Plan:
    """A restore: backup, its repository, timeline to follow, target."""

    backup: Backup
    timeline: int
    target: Target

    def arguments(self, exclusive: bool) -> list[str]:
        """Return the options of `pgbackrest restore`; with exclusive, recovery ends just before the target."""
        options = [f"--repo={self.backup.repository}", f"--set={self.backup.label}"]
        if self.target.kind == "backup":
            # The moment at which the backup is consistent, in the history it was made in.
            return [*options, "--type=immediate", "--target-action=promote", f"--target-timeline={self.timeline}"]
        if self.target.kind == "latest":
            return [*options, "--type=default", f"--target-timeline={self.timeline}"]
        options += [f"--type={self.target.kind}", f"--target={self.target.value}", "--target-action=promote"]
        options += [f"--target-timeline={self.timeline}"]
        # A named restore point has no before.
        return [*options, "--target-exclusive"] if exclusive and self.target.kind != "name" else options


def parse_target(kind: str, value: str) -> Target:
    """Return the target an operator means.

    Parameters: kind, one of KINDS; value, what belongs to it: a time with its offset from UTC (ISO 8601), an LSN, a transaction
    number, the name of a restore point, the label of a backup; empty for the latest state. Raises Refusal.
    """
    text = value.strip()
    if kind not in KINDS:
        raise Refusal(f"restore_type {kind!r}: allowed are {', '.join(KINDS)}")
    if kind == "latest":
        if text:
            raise Refusal(f"restore_target {text!r} does not go with restore_type latest: leave it out")
        return Target(kind)
    if not text:
        raise Refusal(f"restore_type {kind} needs restore_target")
    if kind == "time":
        return _time(text)
    if kind == "lsn":
        try:
            position = parse_lsn(text)
        except ValueError as error:
            raise Refusal(f"restore_target {error}") from error
        return Target(kind, format_lsn(position), position=position)
    if kind == "xid" and not (text.isascii() and text.isdigit() and _FIRST_XID <= int(text) <= _LARGEST_XID):
        raise Refusal(f"restore_target {text!r} is not a transaction number: {_FIRST_XID} to {_LARGEST_XID}")
    if kind == "name" and (len(text.encode()) > _LONGEST_NAME or not text.isprintable()):
        raise Refusal(f"restore_target {text!r} is not a restore point: at most {_LONGEST_NAME} printable characters")
    if kind == "backup" and not _LABEL.match(text):
        raise Refusal(f"restore_target {text!r} is not a label of a backup, such as 20260131-120000F")
    return Target(kind, text)


def _time(text: str) -> Target:
    try:
        moment = datetime.datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))
    except ValueError as error:
        raise Refusal(f"restore_target {text!r} is not a time such as 2026-01-31 12:00:00.5+00:00") from error
    if moment.tzinfo is None:
        raise Refusal(f"restore_target {text!r} has no offset from UTC: write {text}+00:00 if UTC is meant")
    moment = moment.astimezone(datetime.UTC)
    return Target("time", moment.strftime("%Y-%m-%d %H:%M:%S.%f+00"), moment=moment.timestamp())


def parse_history(text: str) -> dict[int, int]:
    """Return, by timeline, the position in bytes at which the next one left it, from a timeline history file."""
    matches = (_HISTORY_LINE.match(line) for line in text.splitlines())
    return {int(match[1]): parse_lsn(match[2]) for match in matches if match}


def newest_timeline(stanza: Stanza, system_identifier: int) -> int:
    """Return the highest timeline of which the archive has WAL. Raises Refusal where there is none."""
    found = [
        timeline_of(archive.last)
        for archive in stanza.archives
        if archive.last and archive.system_identifier == system_identifier
    ]
    if not found:
        raise Refusal(
            f"no repository has WAL of the cluster {system_identifier}: check that this is the right repository"
        )
    return max(found)


def in_history(backup: Backup, timeline: int, history: dict[int, int]) -> bool:
    """Whether a backup lies on the way to a timeline: on it, or on an ancestor before that was left."""
    if backup.stop_timeline == timeline:
        return True
    return backup.stop_timeline in history and backup.stop_lsn <= history[backup.stop_timeline]


def usable(backups: Iterable[Backup], system_identifier: int, timeline: int, history: dict[int, int]) -> list[Backup]:
    """Return whole backups of the cluster from which a timeline can be reached, oldest first."""
    found = [
        backup
        for backup in backups
        if not backup.faulty and backup.system_identifier == system_identifier and in_history(backup, timeline, history)
    ]
    return sorted(found, key=lambda backup: (backup.stop, backup.repository))


def plan(
    stanza: Stanza,
    target: Target,
    *,
    system_identifier: int,
    timeline: int,
    history: dict[int, int],
    now: float,
    label: str = "",
) -> Plan:
    """Return the restore that reaches a target with the least WAL to replay.

    Parameters: timeline, the history to follow, and history, where it left its ancestors; now, seconds since 1970;
    label, the backup to begin with, or empty for the newest before the target. Where the position of a target is not known
    before recovery (a transaction, a name), the newest backup is taken.
    Raises Refusal for a target in the future or before the oldest backup, and says what is possible.
    """
    if target.kind == "backup":
        named = [item for item in stanza.backups if item.label == target.value and not item.faulty]
        if not named:
            raise Refusal(f"there is no backup {target.value}. {possible(_listed(stanza, system_identifier), now)}")
        return Plan(named[0], named[0].stop_timeline, target)
    candidates = usable(stanza.backups, system_identifier, timeline, history)
    if not candidates:
        raise Refusal(f"no backup leads to timeline {timeline}. {possible(_listed(stanza, system_identifier), now)}")
    if target.kind == "time" and target.moment > now:
        raise Refusal(f"{target.value} is in the future. {possible(candidates, now)}")
    _refuse_future_position(stanza, target, system_identifier, candidates, now)
    before = [item for item in candidates if _is_before(item, target)]
    if label:
        before = [item for item in before if item.label == label]
    if not before:
        subject = f"the backup {label} does not lie" if label else "no backup lies"
        raise Refusal(f"{subject} before {target.kind} {target.value}. {possible(candidates, now)}")
    newest = max(item.stop for item in before)
    return Plan(next(item for item in before if item.stop == newest), timeline, target)


def _listed(stanza: Stanza, system_identifier: int) -> list[Backup]:
    found = [item for item in stanza.backups if not item.faulty and item.system_identifier == system_identifier]
    return sorted(found, key=lambda item: item.stop)


def _is_before(backup: Backup, target: Target) -> bool:
    if target.kind == "time":
        return backup.stop <= target.moment
    if target.kind == "lsn":
        return backup.stop_lsn <= target.position
    return True


def _refuse_future_position(
    stanza: Stanza, target: Target, system_identifier: int, candidates: list[Backup], now: float
) -> None:
    if target.kind != "lsn":
        return
    last = max(
        (
            archive.last
            for archive in stanza.archives
            if archive.last and archive.system_identifier == system_identifier
        ),
        key=lambda name: name[8:],
    )
    # 16 MiB segments: the name holds the upper half of the position and the number of the segment in it.
    end = (int(last[8:16], 16) << 32) + ((int(last[16:24], 16) + 1) << 24)
    if target.position >= end:
        raise Refusal(
            f"{target.value} is not in the archive, which ends before {format_lsn(end)}. {possible(candidates, now)}"
        )


def possible(backups: list[Backup], now: float) -> str:
    """Return a sentence about what can be restored, for backups sorted by their end."""
    if not backups:
        return "Nothing can be restored: there is no whole backup of this cluster."
    first = backups[0]
    labels = ", ".join(backup.label for backup in backups[-5:])
    return (
        f"Possible is any time from {_stamp(first.stop)} (the end of {first.label}) to now, {_stamp(now)}, "
        f"or an LSN from {format_lsn(first.stop_lsn)}. The newest backups: {labels}."
    )


def _stamp(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S+00:00")
