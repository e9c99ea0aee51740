# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What one Patroni member says about itself, and its tags in its configuration file. No I/O.

Sources: patroni/api.py (get_postgresql_status, do_POST_restart, do_POST_reinitialize) and patroni/patroni.py (Patroni.tags) of
Patroni 3.0.2, 4.0.7 and 4.1.5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.cluster import unknown

LEADERS = frozenset({"primary", "master", "standby_leader"})
# 3.0 does not say whether a replica streams.
FOLLOWING = frozenset({"streaming", "in archive recovery", None})
# Patroni leaves these out where they are not set.
OWN_TAGS = frozenset({"clonefrom", "nofailover", "noloadbalance", "nosync", "nostream"})
TAGS_BLOCK = re.compile(r"^tags:.*(?:\n(?:[ \t#].*)?)*(?:\n|\Z)", re.MULTILINE)


@dataclass(frozen=True)
class Member:
    """One member's own state. started is when its postmaster started, as Patroni writes it, empty where none runs."""

    name: str
    state: str
    role: str
    started: str = ""
    replication_state: str | None = None
    pending_restart: bool = False
    pending_restart_reason: Mapping[str, Any] = field(default_factory=dict)
    paused: bool = False
    tags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def leads(self) -> bool:
        """Whether its PostgreSQL is the primary, or leads a standby cluster."""
        return self.role in LEADERS

    @property
    def works(self) -> bool:
        """Whether it runs, and follows where it is a replica."""
        return self.state == "running" and (self.leads or self.replication_state in FOLLOWING)


def parse_member(data: Any) -> Member:
    """Return the member of the JSON value that GET /patroni answers. Raises Refusal."""
    if not isinstance(data, Mapping) or "state" not in data or not isinstance(data.get("patroni"), Mapping):
        raise unknown("/patroni", data)
    return Member(
        name=data["patroni"].get("name", ""),
        state=data["state"],
        role=data.get("role", ""),
        started=data.get("postmaster_start_time") or "",
        replication_state=data.get("replication_state"),
        pending_restart=bool(data.get("pending_restart", False)),
        pending_restart_reason=data.get("pending_restart_reason") or {},
        paused=bool(data.get("pause", False)),
        tags=data.get("tags") or {},
    )


def effective_tags(tags: Mapping[str, Any]) -> dict[str, Any]:
    """Return tags as Patroni tells them: without those of its own that are off."""
    return {name: value for name, value in tags.items() if name not in OWN_TAGS or value}


def with_tags(text: str, tags: Mapping[str, Any]) -> str:
    """Return a configuration file with these tags and no others; the rest of it stays as it is."""
    line = f"tags: {json.dumps(dict(tags))}\n"
    if TAGS_BLOCK.search(text):
        return TAGS_BLOCK.sub(lambda _match: line, text, count=1)
    return text + ("" if text.endswith("\n") or not text else "\n") + line


def describe_pending(member: Member) -> list[str]:
    """Return which settings wait for a restart, as `name: old -> new`; Patroni before 4.0 only tells that there are any."""
    if not member.pending_restart:
        return []
    return [
        f"{name}: {change.get('old_value')} -> {change.get('new_value')}" if isinstance(change, Mapping) else str(name)
        for name, change in sorted(member.pending_restart_reason.items())
    ] or ["settings"]
