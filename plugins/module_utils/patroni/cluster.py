# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What Patroni's REST API says about a cluster, as data with verdicts. No I/O.

Sources: patroni/utils.py (cluster_as_json) and patroni/api.py of Patroni 3.0.2, 4.0.7 and 4.1.5. What differs between them:

- 3.0 gives a streaming replica the state ``running``, later versions ``streaming``; 3.0 has no ``scope``.
- 4.0 brought the role ``quorum_standby`` and, beside ``pending_restart``, ``pending_restart_reason``.
- 4.1 gives ``receive_lag`` and ``replay_lag`` beside ``lag``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

LEADER_ROLES = frozenset({"leader", "standby_leader"})
SYNCHRONOUS_ROLES = frozenset({"sync_standby", "quorum_standby"})
# The states of a member that does its work: a leader is `running`; a replica is `streaming`, or `running` in Patroni 3.0,
# or replays from the archive.
LEADER_STATES = frozenset({"running"})
REPLICA_STATES = frozenset({"streaming", "running", "in archive recovery"})


def unknown(path: str, found: object) -> Refusal:
    """Return the refusal of an answer of Patroni that this code does not know. path: of the request."""
    return Refusal(f"{path} answered something unknown: {found!r}")


@dataclass(frozen=True)
class Member:
    """One member of a cluster. Lags are bytes behind the leader's last known position, None where unknown."""

    name: str
    role: str
    state: str
    host: str = ""
    port: int = 0
    api_url: str = ""
    timeline: int | None = None
    lag: int | None = None
    receive_lag: int | None = None
    replay_lag: int | None = None
    pending_restart: bool = False
    pending_restart_reason: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_leader(self) -> bool:
        """Whether it holds the leader lock."""
        return self.role in LEADER_ROLES

    @property
    def is_synchronous(self) -> bool:
        """Whether a commit may count on it: a synchronous or quorum standby."""
        return self.role in SYNCHRONOUS_ROLES

    @property
    def is_healthy(self) -> bool:
        """Whether it does its work: a leader runs, a replica follows, the leader of a standby cluster too."""
        return self.state in (LEADER_STATES if self.role == "leader" else REPLICA_STATES)

    def as_dict(self) -> dict[str, Any]:
        """Return what modules return of a member."""
        return {
            "name": self.name,
            "role": self.role,
            "state": self.state,
            "host": self.host,
            "port": self.port,
            "api_url": self.api_url,
            "timeline": self.timeline,
            "lag": self.lag,
            "receive_lag": self.receive_lag,
            "replay_lag": self.replay_lag,
            "pending_restart": self.pending_restart,
            "pending_restart_reason": dict(self.pending_restart_reason),
            "tags": dict(self.tags),
        }


@dataclass(frozen=True)
class Cluster:
    """The answer to GET /cluster. scope is empty for Patroni 3.0."""

    members: tuple[Member, ...] = ()
    scope: str = ""
    paused: bool = False
    scheduled_switchover: Mapping[str, str] = field(default_factory=dict)

    @property
    def leader(self) -> Member | None:
        """The member that holds the leader lock."""
        return next((member for member in self.members if member.is_leader), None)

    @property
    def is_standby(self) -> bool:
        """Whether it follows a primary elsewhere."""
        return self.leader is not None and self.leader.role == "standby_leader"

    @property
    def synchronous(self) -> tuple[Member, ...]:
        """The synchronous or quorum standbys."""
        return tuple(member for member in self.members if member.is_synchronous)

    @property
    def replicas(self) -> tuple[Member, ...]:
        """Every member but the leader."""
        return tuple(member for member in self.members if not member.is_leader)

    @property
    def pending_restart(self) -> tuple[Member, ...]:
        """The members whose settings wait for a restart."""
        return tuple(member for member in self.members if member.pending_restart)

    @property
    def timeline(self) -> int | None:
        """The leader's timeline."""
        return self.leader.timeline if self.leader else None

    def member(self, name: str) -> Member | None:
        """Return the member of that name."""
        return next((member for member in self.members if member.name == name), None)


@dataclass(frozen=True)
class Promotion:
    """One line of GET /history: timeline ended at lsn (bytes); Patroni 3.0 and later add the time and the new leader."""

    timeline: int
    lsn: int
    reason: str = ""
    timestamp: str = ""
    new_leader: str = ""


def parse_cluster(data: Any) -> Cluster:
    """Return the cluster of the JSON value that GET /cluster answers. Raises Refusal."""
    if not isinstance(data, Mapping) or not isinstance(data.get("members"), Sequence):
        raise unknown("/cluster", data)
    return Cluster(
        members=tuple(_parse_member(member) for member in data["members"]),
        scope=data.get("scope", ""),
        paused=bool(data.get("pause", False)),
        scheduled_switchover=data.get("scheduled_switchover", {}),
    )


def _parse_member(data: Any) -> Member:
    if not isinstance(data, Mapping) or not {"name", "role", "state"} <= data.keys():
        raise unknown("/cluster", data)
    return Member(
        name=data["name"],
        role=data["role"],
        state=data["state"],
        host=data.get("host", ""),
        port=data.get("port", 0),
        api_url=data.get("api_url", ""),
        timeline=data.get("timeline"),
        lag=_bytes(data.get("lag")),
        receive_lag=_bytes(data.get("receive_lag")),
        replay_lag=_bytes(data.get("replay_lag")),
        pending_restart=bool(data.get("pending_restart", False)),
        pending_restart_reason=data.get("pending_restart_reason") or {},
        tags=data.get("tags") or {},
    )


def _bytes(value: Any) -> int | None:
    """Patroni writes the word ``unknown`` where it has no position of a member."""
    return value if isinstance(value, int) else None


def parse_history(data: Any) -> tuple[Promotion, ...]:
    """Return the promotions of the JSON value that GET /history answers, oldest first. Raises Refusal."""
    if not isinstance(data, Sequence) or isinstance(data, str):
        raise unknown("/history", data)
    return tuple(_parse_promotion(line) for line in data)


def _parse_promotion(line: Any) -> Promotion:
    if not isinstance(line, Sequence) or isinstance(line, str) or not 2 <= len(line) <= 5:
        raise unknown("/history", line)
    return Promotion(*line)


@dataclass(frozen=True)
class Expectation:
    """What a cluster should look like. members must be there and work; maximum_lag is bytes, None for any."""

    members: tuple[str, ...] = ()
    minimum_synchronous: int = 0
    maximum_lag: int | None = None
    leader: bool = True


def unmet(cluster: Cluster, wish: Expectation) -> tuple[str, ...]:
    """Return what of the wish is not so, one sentence each; nothing means that all is well."""
    lines: list[str] = []
    if wish.leader and cluster.leader is None:
        lines.append("there is no leader")
    elif wish.leader and cluster.leader is not None and not cluster.leader.is_healthy:
        lines.append(f"the leader {cluster.leader.name} is in state '{cluster.leader.state}'")
    for name in wish.members:
        lines.extend(_unmet_of_member(cluster, name, wish.maximum_lag))
    synchronous = [member for member in cluster.synchronous if member.is_healthy]
    # No commit waits for anybody in a standby cluster, as it makes none.
    if len(synchronous) < wish.minimum_synchronous and not cluster.is_standby:
        names = ", ".join(member.name for member in synchronous) or "none"
        lines.append(f"synchronous standbys: {names}; at least {wish.minimum_synchronous} wanted")
    return tuple(lines)


def _unmet_of_member(cluster: Cluster, name: str, maximum_lag: int | None) -> list[str]:
    member = cluster.member(name)
    if member is None:
        return [f"{name} is not a member yet"]
    if not member.is_healthy:
        return [f"{name} is in state '{member.state}'"]
    if member.is_leader:
        return []
    lines = []
    if cluster.timeline is not None and member.timeline not in (None, cluster.timeline):
        lines.append(f"{name} is on timeline {member.timeline}, the leader on {cluster.timeline}")
    if maximum_lag is not None and (member.lag is None or member.lag > maximum_lag):
        shown = "unknown" if member.lag is None else f"{member.lag} bytes"
        lines.append(f"the lag of {name} is {shown}, allowed are {maximum_lag}")
    return lines
