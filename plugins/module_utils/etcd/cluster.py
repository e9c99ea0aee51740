# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What an etcd cluster is like, and what is wrong with it. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.findings import Finding

# A member that applies entries this much later than the first one is not keeping up.
LAG_ENTRIES = 1000
QUOTA_SHARE = 0.8
DEFAULT_QUOTA = 2 * 1024**3


@dataclass(frozen=True)
class Status:
    """One member's answer to a status request. Sizes in bytes, ids as the gateway's decimal text."""

    version: str
    leader: str
    raft_term: int
    raft_index: int
    applied_index: int
    revision: int
    db_size: int
    db_size_in_use: int
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Member:
    """One member of the cluster. status is None where it did not answer, error says why."""

    member_id: str
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool = False
    status: Status | None = None
    error: str = ""

    @property
    def label(self) -> str:
        """The member's name, or what is known of a member that never started."""
        return self.name or ", ".join(self.peer_urls) or self.member_id


@dataclass(frozen=True)
class Alarm:
    """An alarm that a member raised: NOSPACE or CORRUPT."""

    member_id: str
    kind: str


@dataclass(frozen=True)
class Cluster:
    """A cluster as its members tell it. auth_enabled is None where it could not be asked."""

    members: tuple[Member, ...]
    alarms: tuple[Alarm, ...] = ()
    auth_enabled: bool | None = None

    @property
    def voters(self) -> tuple[Member, ...]:
        """The members that count for the quorum."""
        return tuple(member for member in self.members if not member.is_learner)

    @property
    def quorum(self) -> int:
        """Voters that must agree."""
        return len(self.voters) // 2 + 1

    @property
    def margin(self) -> int:
        """Voters that may still be lost before the cluster stops. Negative: it has stopped."""
        return sum(1 for member in self.voters if member.status is not None) - self.quorum

    @property
    def leader(self) -> Member | None:
        """The member that most members follow."""
        votes = Counter(member.status.leader for member in self.members if member.status and member.status.leader)
        if not votes:
            return None
        winner = votes.most_common(1)[0][0]
        return next((member for member in self.members if member.member_id == winner), None)


def parse_members(answer: Mapping) -> list[Member]:
    """Return the members in an answer of /v3/cluster/member/list."""
    return [
        Member(
            member_id=str(item["ID"]),
            name=item.get("name", ""),
            peer_urls=tuple(item.get("peerURLs", ())),
            client_urls=tuple(item.get("clientURLs", ())),
            is_learner=bool(item.get("isLearner", False)),
        )
        for item in answer.get("members", [])
    ]


def parse_status(answer: Mapping) -> Status:
    """Return an answer of /v3/maintenance/status."""
    leader = str(answer.get("leader", "0"))
    return Status(
        version=answer.get("version", ""),
        leader="" if leader == "0" else leader,
        raft_term=int(answer.get("raftTerm", 0)),
        raft_index=int(answer.get("raftIndex", 0)),
        applied_index=int(answer.get("raftAppliedIndex", 0)),
        revision=int(answer.get("header", {}).get("revision", 0)),
        db_size=int(answer.get("dbSize", 0)),
        db_size_in_use=int(answer.get("dbSizeInUse", 0)),
        errors=tuple(answer.get("errors", ())),
    )


def parse_alarms(answer: Mapping) -> tuple[Alarm, ...]:
    """Return the alarms in an answer of /v3/maintenance/alarm."""
    return tuple(Alarm(str(item.get("memberID", "0")), item.get("alarm", "NONE")) for item in answer.get("alarms", []))


def judge(cluster: Cluster, quota: int = DEFAULT_QUOTA, declared: Sequence[str] = ()) -> list[Finding]:
    """Return every broken rule.

    Parameters: quota, the members' limit of the database's size, in bytes; declared, the names that the members should
    have, or nothing to leave that unjudged.
    """
    findings = [
        *_judge_membership(cluster, declared),
        *_judge_members(cluster),
        *_judge_quorum(cluster),
        *_judge_leader(cluster),
        *_judge_alarms(cluster),
        *_judge_progress(cluster),
        *_judge_size(cluster, quota),
    ]
    if cluster.auth_enabled is False:
        findings.append(
            Finding(
                "etcd_auth_off",
                "warning",
                "etcd",
                "authentication is off",
                "on",
                "Run site.yml, which declares the users and turns it on.",
            )
        )
    return findings


def _judge_membership(cluster: Cluster, declared: Sequence[str]) -> Iterable[Finding]:
    names = sorted(member.label for member in cluster.members)
    if declared and names != sorted(declared):
        remedy = (
            "Members that formed clusters of their own hold no common data: stop the ones outside of this cluster, "
            "move their data directories aside and run again. Add or remove members of a running cluster one by one."
        )
        yield Finding("etcd_members", "critical", "etcd", ", ".join(names), ", ".join(sorted(declared)), remedy)


def _judge_members(cluster: Cluster) -> Iterable[Finding]:
    for member in cluster.members:
        if member.status is None:
            yield Finding(
                "etcd_member_down",
                "warning",
                member.label,
                member.error or "never started",
                "answers",
                "Look at the unit etcd.service on this host, and at the network between the members.",
            )
        elif member.is_learner:
            yield Finding(
                "etcd_learner",
                "warning",
                member.label,
                "learner, does not vote",
                "voting member",
                "Promote it once it has caught up, or remove it.",
            )


def _judge_quorum(cluster: Cluster) -> Iterable[Finding]:
    voters = len(cluster.voters)
    up = sum(1 for member in cluster.voters if member.status is not None)
    found = f"{up} of {voters} voters answer, {cluster.quorum} are the quorum"
    if cluster.margin < 0:
        remedy = "Bring members back; PostgreSQL's primary is demoted, or runs in failsafe mode, until then."
        yield Finding("etcd_quorum", "critical", "etcd", found, f"at least {cluster.quorum}", remedy)
    elif cluster.margin == 0 and voters > 1:
        remedy = "Bring the missing members back: the next loss stops the cluster."
        yield Finding("etcd_quorum_margin", "warning", "etcd", found, f"at least {cluster.quorum + 1}", remedy)
    if voters % 2 == 0:
        remedy = "Add or remove one member: an even number survives no more losses than one less."
        yield Finding("etcd_even_members", "warning", "etcd", f"{voters} voters", "an odd number", remedy)


def _judge_leader(cluster: Cluster) -> Iterable[Finding]:
    leaders = {member.label: member.status.leader for member in cluster.members if member.status is not None}
    known = {leader for leader in leaders.values() if leader}
    followers = [label for label, leader in leaders.items() if not leader]
    if len(known) > 1:
        found = ", ".join(f"{label} follows {leader}" for label, leader in sorted(leaders.items()))
        remedy = "Ask again; if it stays, look for a cut network between the members."
        yield Finding("etcd_leader", "critical", "etcd", found, "one leader", remedy)
    elif leaders and not known:
        remedy = "Bring enough members back for a quorum."
        yield Finding("etcd_leader", "critical", "etcd", "no member knows a leader", "one leader", remedy)
    else:
        for label in followers:
            remedy = "Look for a cut network between this member and the others."
            yield Finding("etcd_leader", "warning", label, "knows no leader", "the cluster's leader", remedy)


ALARM_MEANINGS = {"NOSPACE": "NOSPACE: etcd takes no writes, and no failover is possible meanwhile"}
ALARM_REMEDIES = {
    "NOSPACE": "Leave Patroni alone, a restart of it now ends in no leader at all, and run reclaim_etcd.yml.",
    "CORRUPT": "Replace this member: its data differs from the others'.",
}


def _judge_alarms(cluster: Cluster) -> Iterable[Finding]:
    labels = {member.member_id: member.label for member in cluster.members}
    for alarm in cluster.alarms:
        remedy = ALARM_REMEDIES.get(alarm.kind, "See etcd's documentation of this alarm.")
        found = ALARM_MEANINGS.get(alarm.kind, alarm.kind)
        yield Finding("etcd_alarm", "critical", labels.get(alarm.member_id, alarm.member_id), found, "none", remedy)


def _judge_progress(cluster: Cluster) -> Iterable[Finding]:
    alive = [(member, member.status) for member in cluster.members if member.status is not None]
    if not alive:
        return
    first = max(status.applied_index for _member, status in alive)
    for member, status in alive:
        behind = first - status.applied_index
        if behind > LAG_ENTRIES:
            remedy = "Look at this host's disk and network."
            yield Finding(
                "etcd_lag", "warning", member.label, f"{behind} entries behind", f"at most {LAG_ENTRIES}", remedy
            )
    versions = sorted({status.version for _member, status in alive})
    if len(versions) > 1:
        remedy = "Finish the update of all members."
        yield Finding("etcd_versions", "warning", "etcd", ", ".join(versions), "one version", remedy)


def _judge_size(cluster: Cluster, quota: int) -> Iterable[Finding]:
    for member in cluster.members:
        if member.status is not None and member.status.db_size > quota * QUOTA_SHARE:
            found = f"{member.status.db_size} bytes, of which {member.status.db_size_in_use} in use"
            allowed = f"at most {int(quota * QUOTA_SHARE)} bytes of a quota of {quota}"
            remedy = "Run reclaim_etcd.yml if little is in use, else raise etcd_quota_mebibytes."
            yield Finding("etcd_size", "warning", member.label, found, allowed, remedy)


def to_dict(cluster: Cluster) -> dict[str, object]:
    """Return the cluster as plain data."""
    leader = cluster.leader
    return {
        "leader": leader.name if leader else "",
        "quorum": cluster.quorum,
        "margin": cluster.margin,
        "auth_enabled": cluster.auth_enabled,
        "members": [_member_to_dict(member) for member in cluster.members],
        "alarms": [_alarm_to_dict(alarm, cluster.members) for alarm in cluster.alarms],
    }


def _member_to_dict(member: Member) -> dict[str, object]:
    data = asdict(member)
    return data | {
        "peer_urls": list(member.peer_urls),
        "client_urls": list(member.client_urls),
        "status": asdict(member.status) | {"errors": list(member.status.errors)} if member.status else None,
    }


def _alarm_to_dict(alarm: Alarm, members: Sequence[Member]) -> dict[str, str]:
    names = {member.member_id: member.label for member in members}
    return {"member": names.get(alarm.member_id, alarm.member_id), "alarm": alarm.kind}
