# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What has to be done to give etcd its room back, in which order. No I/O.

etcd refuses every write once a member's database has reached the quota (alarm NOSPACE). Tried with 3.5.16: a disarmed alarm is raised
again by the next write while any member's file is still full, and compaction frees pages inside the file only. So the order is: compact,
defragment every member, and disarm last.
"""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.cluster import QUOTA_SHARE, Cluster, Member
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

NOSPACE = "NOSPACE"


@dataclass(frozen=True)
class Step:
    """One request. action: compact, defragment, disarm. member: whose, empty where it is the whole cluster's."""

    action: str
    text: str
    member: Member | None = None


def full(cluster: Cluster) -> bool:
    """Return whether the cluster refuses writes because a member has reached its quota."""
    return any(alarm.kind == NOSPACE for alarm in cluster.alarms)


def large(cluster: Cluster, quota: int) -> tuple[str, ...]:
    """Return the members whose database takes more than QUOTA_SHARE of the quota (bytes)."""
    return tuple(m.label for m in cluster.members if m.status is not None and m.status.db_size > quota * QUOTA_SHARE)


def plan(cluster: Cluster, quota: int) -> tuple[Step, ...]:
    """Return the steps, none where there is no alarm and every database has room.

    Parameters: quota, the members' limit of the database's size, in bytes.
    Raises Refusal where a member does not answer, or holds other data than the rest.
    """
    if not full(cluster) and not large(cluster, quota):
        return ()
    corrupt = [alarm.member_id for alarm in cluster.alarms if alarm.kind == "CORRUPT"]
    if corrupt:
        names = ", ".join(m.label for m in cluster.members if m.member_id in corrupt)
        raise Refusal(f"{names} holds other data than the rest (alarm CORRUPT): replace that member first")
    silent = [f"{m.label} ({m.error or 'never started'})" for m in cluster.members if m.status is None]
    if silent:
        raise Refusal(
            f"{', '.join(silent)} does not answer, and one member that is not defragmented raises the alarm again: "
            "start it, or take it out of the cluster with remove_node.yml"
        )
    leader = cluster.leader
    # The leader last: defragmenting blocks a member for its time.
    ordered = sorted(cluster.members, key=lambda member: (member == leader, member.label))
    steps = [Step("compact", "compact the history")]
    steps += [Step("defragment", f"defragment {member.label}", member) for member in ordered]
    if full(cluster):
        steps.append(Step("disarm", f"disarm the alarm {NOSPACE}"))
    return tuple(steps)


def unfit(cluster: Cluster, quota: int) -> str:
    """Return why the alarm can't be disarmed although every member was defragmented, an empty text if it can."""
    left = large(cluster, quota)
    if not left:
        return ""
    sizes = ", ".join(
        f"{m.label} {m.status.db_size} bytes" for m in cluster.members if m.status is not None and m.label in left
    )
    return (
        f"compacted and defragmented, databases still take more than {int(quota * QUOTA_SHARE)} of {quota} bytes ({sizes}): "
        "what is left are keys. Delete those that are not Patroni's (etcdctl get / --prefix --keys-only --limit 50 shows some; "
        "etcd takes deletions beside the alarm), then run this again. The alarm stays until then"
    )
