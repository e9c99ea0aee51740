# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Who is a member of an etcd cluster and who shall be: the steps between the two, and what is refused. No I/O.

Sources: https://etcd.io/docs/v3.5/op-guide/runtime-configuration/ and server/etcdserver/server.go (3.5: AddMember, PromoteMember,
mayRemoveMember). etcd refuses a removal that would stop the cluster at once; whether it could still lose somebody afterwards is
decided here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.cluster import Cluster, Member
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


@dataclass(frozen=True)
class Wish:
    """What is asked for.

    state: `joined`, the cluster knows the member, so that its server may start; `voting`, it counts for the quorum; `absent`.
    has_data, whether the host has data of a member, None where that is unknown; spare, how many voters may still be lost after
    a removal without stopping the cluster.
    """

    name: str
    peer_url: str
    state: str
    has_data: bool | None = None
    spare: int = 1


@dataclass(frozen=True)
class Step:
    """One change: `remove`, `add` (as a learner) or `promote`. member_id is empty for `add`."""

    action: str
    member_id: str
    text: str


def plan(cluster: Cluster, wish: Wish) -> tuple[Step, ...]:
    """Return the steps to the wish. Raises Refusal."""
    member = find(cluster, wish)
    if wish.state == "absent":
        return _plan_absent(cluster, member, wish)
    if wish.state == "joined":
        return _plan_joined(cluster, member, wish)
    if member is None:
        raise Refusal(f"{wish.name} is not a member of the cluster ({_names(cluster)}): add it first (site.yml)")
    return (Step("promote", member.member_id, f"promote {wish.name} to a voter"),) if member.is_learner else ()


def find(cluster: Cluster, wish: Wish) -> Member | None:
    """Return the member that the wish is about: by its address, or else by its name."""
    by_address = (member for member in cluster.members if wish.peer_url in member.peer_urls)
    by_name = (member for member in cluster.members if member.name == wish.name)
    return next(by_address, None) or next(by_name, None)


def has_started(member: Member) -> bool:
    """Return whether the member's server ever ran: then it has told where clients reach it."""
    return bool(member.client_urls)


def initial_cluster(cluster: Cluster, wish: Wish) -> str:
    """Return ETCD_INITIAL_CLUSTER for the server of a member that has joined: all members, itself by its own name."""
    own = find(cluster, wish)
    pairs = [
        f"{wish.name if member == own else member.name or member.member_id}={url}"
        for member in cluster.members
        for url in member.peer_urls
    ]
    return ",".join(pairs)


def _plan_joined(cluster: Cluster, member: Member | None, wish: Wish) -> tuple[Step, ...]:
    add = Step("add", "", f"add {wish.name} ({wish.peer_url}) as a learner")
    if member is None:
        if wish.has_data:
            raise Refusal(
                f"{wish.name} has data of a member, but the cluster ({_names(cluster)}) does not know it. Data of a removed member, or of "
                "another cluster, is never used again: move the folder aside on that host, then run again"
            )
        _refuse_second_learner(cluster, None)
        return (add,)
    if wish.peer_url not in member.peer_urls:
        raise Refusal(
            f"{wish.name} is a member at {', '.join(member.peer_urls)}, not at {wish.peer_url}: remove that member first "
            "(remove_node.yml), or give the host its address back"
        )
    if wish.has_data is not False or not has_started(member):
        return ()
    # A voter that lost its data has forgotten what it voted for: only as a new member may it vote again.
    _refuse_second_learner(cluster, member)
    _guard_removal(cluster, member, 0)
    return (Step("remove", member.member_id, f"remove {wish.name}, which lost its data"), add)


def _plan_absent(cluster: Cluster, member: Member | None, wish: Wish) -> tuple[Step, ...]:
    if member is None:
        return ()
    _guard_removal(cluster, member, wish.spare)
    return (Step("remove", member.member_id, f"remove {member.label}"),)


def _guard_removal(cluster: Cluster, member: Member, spare: int) -> None:
    for problem in removal_problems(cluster, member, spare):
        raise Refusal(f"{member.label} is not removed: {problem}")


def removal_problems(cluster: Cluster, member: Member, spare: int) -> Iterator[str]:
    """Yield why a member may not be removed."""
    if member.is_learner:
        return
    left = [voter for voter in cluster.voters if voter != member]
    alive = [voter for voter in left if voter.status is not None]
    quorum = len(left) // 2 + 1
    if not left:
        yield "it is the last voter"
    elif len(alive) < quorum + spare:
        found = f"of the {len(left)} voters left {len(alive)} would answer, {quorum} are their quorum"
        wanted = f"{spare} more may be lost" if spare else "they can decide"
        yield (
            f"{found}; wanted is that {wanted}. Add a member first, bring back the ones that are down, or replace this host "
            "(replace_node.yml)"
        )


def _refuse_second_learner(cluster: Cluster, own: Member | None) -> None:
    for member in cluster.members:
        if member.is_learner and member != own:
            raise Refusal(
                f"{member.label} is still a learner, and etcd takes one at a time: finish with site.yml, or remove it"
            )


def _names(cluster: Cluster) -> str:
    return ", ".join(member.label for member in cluster.members) or "no members"
