# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Placement: which nodes are primaries and which replica follows which, by host and zone. No I/O.

Hard: no replica on its primary's host. Wished, in this order: no host holds so many primaries that its loss leaves no
majority, the same of zones, every replica in another zone than its primary, primaries spread evenly over hosts,
replicas of one primary on different hosts. What stands and fits stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.primaries import wished

PRIMARY = "primary"
REPLICA = "replica"

Apart = Callable[[str, str], bool]


@dataclass(frozen=True)
class Seat:
    """A node to be placed.

    zone may be empty: then zones are not looked at for it. hint: `primary`, `replica` or empty, as declared.
    shard: id of the shard's primary that owns slots now (its own id for that primary), empty for a node without one.
    """

    id: str
    host: str
    zone: str = ""
    hint: str = ""
    shard: str = ""

    @property
    def leads(self) -> bool:
        """True for a primary that owns slots now."""
        return self.shard == self.id


PlaceOf = Callable[[Seat], str]


@dataclass(frozen=True)
class Placement:
    """The wished roles.

    primaries: ids of nodes that lead. follows: primary id by replica id. promotions: id of the replica that takes over,
    by id of the primary that it takes over from (slots stay in the shard). drained: ids of primaries that give up
    their slots.
    """

    primaries: tuple[str, ...]
    follows: Mapping[str, str]
    promotions: Mapping[str, str]
    drained: tuple[str, ...] = ()


def survivable(primaries: int) -> int:
    """Return how many of so many primaries may be lost at once with a majority left."""
    return (primaries - 1) // 2


def crowded(places: Iterable[str], primaries: int) -> dict[str, int]:
    """Return the places (host or zone of each primary) whose loss leaves no majority, with their numbers."""
    counts = Counter(place for place in places if place)
    return {place: number for place, number in counts.items() if number > survivable(primaries)}


def place(seats: Sequence[Seat], replicas: int, primaries: int | None = None) -> Placement:
    """Return roles for all seats.

    replicas: least number for each primary. primaries: number of primaries; without it, as many as seats suffice for and
    survive the loss of any host (primaries.wished).
    Raises Refusal when there are fewer than 3 primaries or hosts can't separate replicas from primaries.
    """
    if replicas < 0:
        raise Refusal(f"replicas is {replicas}", "Use 0 for none")
    number = primaries if primaries is not None else _number(seats, replicas)
    _check(seats, replicas, number)
    leaders, promotions, drained = _leaders(seats, replicas, number)
    followers = [seat for seat in seats if seat not in leaders]
    standing = {s.id: _standing(s, promotions) for s in followers}
    follows = _Attachment(leaders, followers, standing, replicas).run()
    return Placement(
        primaries=tuple(seat.id for seat in leaders),
        follows={seat.id: follows[seat.id] for seat in followers},
        promotions=promotions,
        drained=tuple(seat.id for seat in drained),
    )


def _number(seats: Sequence[Seat], replicas: int) -> int:
    """Return how many lead: the safe number, or as many as are declared to where the instances suffice for them."""
    declared = min(sum(seat.hint == PRIMARY for seat in seats), len(seats) // (replicas + 1))
    return max(wished(Counter(seat.host for seat in seats), replicas), declared)


def _standing(seat: Seat, promotions: Mapping[str, str]) -> str:
    """The primary that a seat would follow without any further change: its shard's, after promotions."""
    return promotions.get(seat.shard, seat.shard)


def _check(seats: Sequence[Seat], replicas: int, number: int) -> None:
    if number < 3:
        raise Refusal(
            f"{len(seats)} nodes with {replicas} replicas for each primary make {number} primaries,"
            " and fewer than 3 can't elect a new one",
            "Declare more nodes or fewer replicas",
        )
    hinted = sum(seat.hint == PRIMARY for seat in seats)
    if hinted > number:
        raise Refusal(
            f"{hinted} nodes are declared as primaries, but {len(seats)} nodes with {replicas} replicas for each make"
            f" {number}",
            "Declare fewer primaries, more nodes or fewer replicas",
        )
    if sum(seat.hint != REPLICA for seat in seats) < number:
        raise Refusal(
            f"{number} primaries are needed, and all but {sum(seat.hint != REPLICA for seat in seats)} nodes are"
            " declared as replicas",
            "Declare fewer replicas",
        )
    followers = len(seats) - number
    if followers < replicas * number:
        raise Refusal(
            f"{number} primaries with {replicas} replicas each need {number * (replicas + 1)} nodes, declared are"
            f" {len(seats)}",
            "Declare more nodes or fewer replicas",
        )
    if followers:
        _check_hosts(seats, replicas, followers)


def _check_hosts(seats: Sequence[Seat], replicas: int, followers: int) -> None:
    for host, nodes in Counter(seat.host for seat in seats).items():
        # Of the nodes on a host, those that lead need their replicas elsewhere and those that follow their primaries.
        if _leaders_limit(nodes, replicas, followers) < 0 or nodes == len(seats):
            raise Refusal(
                f"{nodes} of {len(seats)} nodes are on host {host}, so {replicas} replicas for each primary can't be"
                " kept off their primary's host",
                "Spread the nodes over more hosts or declare fewer replicas",
            )


def _leaders_limit(nodes: int, replicas: int, followers: int) -> int:
    """How many nodes of a host may lead, so that its primaries find their replicas on other hosts; negative: none can.

    With p leaders on a host of n nodes, replicas x p must not exceed followers - (n - p).
    """
    spare = followers - nodes
    if replicas <= 1:
        return nodes if spare >= 0 or replicas == 0 else -1
    return spare // (replicas - 1) if spare >= 0 else -1


def _leaders(seats: Sequence[Seat], replicas: int, number: int) -> tuple[list[Seat], dict[str, str], list[Seat]]:
    """Choose the primaries: those that stand, less the ones too many, plus new ones; then mend majorities."""
    standing = [seat for seat in seats if seat.leads]
    keep = sorted(standing, key=lambda s: (s.hint == REPLICA, s.hint != PRIMARY, seats.index(s)))[:number]
    drained = [seat for seat in standing if seat not in keep]
    leaders = [seat for seat in standing if seat in keep]
    followers = len(seats) - number
    hosts = Counter(seat.host for seat in seats)
    limits = {host: _leaders_limit(nodes, replicas, followers) for host, nodes in hosts.items()}
    held = _members_needed(seats, leaders, replicas)
    while len(leaders) < number:
        leaders.append(_next_leader(seats, leaders, number, limits, held))
    promotions = _promotions(seats, leaders, number, limits)
    leading = {promotions.get(seat.id, seat.id) for seat in leaders}
    return [seat for seat in seats if seat.id in leading], promotions, drained


def _members_needed(seats: Sequence[Seat], leaders: Sequence[Seat], replicas: int) -> set[str]:
    """Replicas that their shard needs: better not made primaries."""
    held: set[str] = set()
    for leader in leaders:
        fitting = [s for s in seats if s.shard == leader.id and not s.leads and s.host != leader.host]
        held.update(seat.id for seat in fitting[:replicas])
    return held


def _next_leader(
    seats: Sequence[Seat], leaders: Sequence[Seat], number: int, limits: Mapping[str, int], held: set[str]
) -> Seat:
    chosen = {seat.id for seat in leaders}
    hosts = Counter(seat.host for seat in leaders)
    zones = Counter(seat.zone for seat in leaders)
    sizes = Counter(seat.host for seat in seats if seat.id not in chosen)
    cap = survivable(number)
    free = [(index, seat) for index, seat in enumerate(seats) if seat.id not in chosen and seat.hint != REPLICA]

    def rank(item: tuple[int, Seat]) -> tuple[object, ...]:
        index, seat = item
        return (
            seat.hint != PRIMARY,
            hosts[seat.host] >= limits[seat.host],
            seat.id in held,
            hosts[seat.host] >= cap,
            bool(seat.zone) and zones[seat.zone] >= cap,
            hosts[seat.host],
            zones[seat.zone],
            bool(seat.shard),
            -sizes[seat.host] if limits[seat.host] > 1 else 0,
            index,
        )

    return min(free, key=rank)[1]


def _promotions(
    seats: Sequence[Seat], leaders: Sequence[Seat], number: int, limits: Mapping[str, int]
) -> dict[str, str]:
    """Choose replicas that take over inside their shard: declared primaries, then whatever mends a majority."""
    members: dict[str, list[Seat]] = {}
    for seat in seats:
        if seat.shard and not seat.leads and seat not in leaders:
            members.setdefault(seat.shard, []).append(seat)
    current = {leader.id: leader for leader in leaders}
    for leader in leaders:
        wanted = [seat for seat in members.get(leader.id, []) if seat.hint == PRIMARY]
        if wanted and leader.hint != PRIMARY:
            current[leader.id] = wanted[0]
    for place_of in (_host_of, _zone_of):
        _mend(current, members, number, place_of)
    return {old: seat.id for old, seat in current.items() if seat.id != old}


def _host_of(seat: Seat) -> str:
    return seat.host


def _zone_of(seat: Seat) -> str:
    return seat.zone


def _mend(current: dict[str, Seat], members: Mapping[str, list[Seat]], number: int, place_of: PlaceOf) -> None:
    """Move leadership off crowded places along the shortest chain of takeovers that ends at a place with room."""
    cap = survivable(number)
    while True:
        counts = Counter(place_of(seat) for seat in current.values())
        over = sorted(place for place, count in counts.items() if place and count > cap)
        chain = next(filter(None, (_chain(place, current, members, cap, place_of) for place in over)), None)
        if chain is None:
            return
        current.update(chain)


def _chain(
    start: str,
    current: Mapping[str, Seat],
    members: Mapping[str, list[Seat]],
    cap: int,
    place_of: PlaceOf,
) -> dict[str, Seat] | None:
    """Breadth-first search over places: each step lets one shard's leadership go from one place to the next."""
    counts = Counter(place_of(seat) for seat in current.values())
    queue: list[tuple[str, dict[str, Seat]]] = [(start, {})]
    seen = {start}
    while queue:
        where, taken = queue.pop(0)
        options = [
            (shard, seat)
            for shard, leader in current.items()
            if shard not in taken and place_of(leader) == where and leader.hint != PRIMARY
            for seat in members.get(shard, [])
            if seat.hint != REPLICA and place_of(seat) not in seen and not _worsens(current, leader, seat, cap)
        ]
        options.sort(key=lambda item: counts[place_of(item[1])])
        for shard, seat in options:
            place = place_of(seat)
            if place in seen:
                continue
            seen.add(place)
            step = {**taken, shard: seat}
            if counts[place] < cap:
                return step
            queue.append((place, step))
    return None


def _worsens(current: Mapping[str, Seat], leader: Seat, seat: Seat, cap: int) -> bool:
    """True when a takeover would crowd the new leader's host (looked at when zones are mended)."""
    on_host = sum(other.host == seat.host for other in current.values())
    return leader.zone != seat.zone and leader.host != seat.host and on_host > cap


class _Attachment:
    """Matches replicas to primaries: a matching with augmenting paths, that starts from what stands."""

    def __init__(
        self, leaders: Sequence[Seat], followers: Sequence[Seat], standing: Mapping[str, str], replicas: int
    ) -> None:
        self.leaders = {seat.id: seat for seat in leaders}
        self.followers = {seat.id: seat for seat in followers}
        self.standing = standing
        self.replicas = replicas
        self.of: dict[str, list[str]] = {seat.id: [] for seat in leaders}
        self.leader_of: dict[str, str] = {}
        self.pairs: Counter[tuple[str, str]] = Counter()

    def run(self) -> dict[str, str]:
        """Return the primary of each replica."""
        for apart in (self._zones_apart, self._hosts_apart):
            self._keep(apart)
            for _round in range(self.replicas):
                for leader in self.leaders:
                    self._greedy(leader, _round + 1, apart)
            for leader in self.leaders:
                while len(self.of[leader]) < self.replicas and self._augment(leader, apart):
                    pass
        self._complain()
        self._spare()
        self._separate_siblings()
        return self.leader_of

    def _hosts_apart(self, leader: str, follower: str) -> bool:
        return self.leaders[leader].host != self.followers[follower].host

    def _zones_apart(self, leader: str, follower: str) -> bool:
        zone = self.leaders[leader].zone
        return self._hosts_apart(leader, follower) and (not zone or zone != self.followers[follower].zone)

    def _link(self, leader: str, follower: str) -> None:
        self._unlink(follower)
        self.of[leader].append(follower)
        self.leader_of[follower] = leader
        self.pairs[self.leaders[leader].host, self.followers[follower].host] += 1

    def _unlink(self, follower: str) -> None:
        leader = self.leader_of.pop(follower, None)
        if leader is not None:
            self.of[leader].remove(follower)
            self.pairs[self.leaders[leader].host, self.followers[follower].host] -= 1

    def _keep(self, apart: Apart) -> None:
        for follower, leader in self.standing.items():
            if follower in self.leader_of or leader not in self.leaders or not apart(leader, follower):
                continue
            if len(self.of[leader]) < self.replicas:
                self._link(leader, follower)

    def _greedy(self, leader: str, wanted: int, apart: Apart) -> None:
        if len(self.of[leader]) >= wanted:
            return
        free = [f for f in self.followers if f not in self.leader_of and apart(leader, f)]
        if free:
            self._link(leader, min(free, key=lambda follower: self._rank(leader, follower)))

    def _rank(self, leader: str, follower: str) -> tuple[object, ...]:
        """Prefer hosts without a sibling, then host pairs that are rare so far, then the order of declaration."""
        host = self.followers[follower].host
        siblings = {self.followers[other].host for other in self.of[leader]}
        stands_elsewhere = self.standing.get(follower, "") in self.leaders
        return host in siblings, stands_elsewhere, self.pairs[self.leaders[leader].host, host]

    def _augment(self, leader: str, apart: Apart) -> bool:
        """Find one more replica for leader, by passing replicas on along a chain of primaries; the shortest one."""
        came: dict[str, tuple[str, str]] = {}
        queue, seen = [leader], {leader}
        while queue:
            at = queue.pop(0)
            for follower in self.followers:
                if not apart(at, follower):
                    continue
                owner = self.leader_of.get(follower)
                if owner is None or len(self.of[owner]) > self.replicas:
                    self._pass_on(leader, at, follower, came)
                    return True
                if owner not in seen:
                    seen.add(owner)
                    came[owner] = (at, follower)
                    queue.append(owner)
        return False

    def _pass_on(self, leader: str, at: str, follower: str, came: Mapping[str, tuple[str, str]]) -> None:
        self._link(at, follower)
        while at != leader:
            at, follower = came[at]
            self._link(at, follower)

    def _complain(self) -> None:
        for leader, replicas in self.of.items():
            if len(replicas) < self.replicas:
                raise Refusal(
                    f"primary {leader} on host {self.leaders[leader].host} finds {len(replicas)} of {self.replicas}"
                    " replicas on other hosts",
                    "Spread the nodes over more hosts or declare fewer replicas",
                )

    def _spare(self) -> None:
        """Attach replicas beyond the number asked for: where they stand, else where there are fewest."""
        for follower in [f for f in self.followers if f not in self.leader_of]:
            stands = self.standing.get(follower, "")
            for apart in (self._zones_apart, self._hosts_apart):
                fitting = [leader for leader in self.leaders if apart(leader, follower)]
                if fitting:
                    best = min(fitting, key=lambda p: (p != stands, len(self.of[p])))
                    self._link(best, follower)
                    break
            else:
                raise Refusal(
                    f"replica {follower} on host {self.followers[follower].host} finds no primary on another host",
                    "Spread the nodes over more hosts",
                )

    def _separate_siblings(self) -> None:
        """Swap replicas so that those of one primary stand on different hosts, where that costs nothing else."""
        for leader in self.leaders:
            hosts: set[str] = set()
            for follower in list(self.of[leader]):
                host = self.followers[follower].host
                if host in hosts and self.standing.get(follower) != leader:
                    self._swap(leader, follower)
                    host = self.followers[self.of[leader][-1]].host
                hosts.add(host)

    def _swap(self, leader: str, follower: str) -> None:
        for other, owner in self.leader_of.items():
            if owner == leader or self.standing.get(other) == owner:
                continue
            mine = {self.followers[f].host for f in self.of[leader] if f != follower}
            theirs = {self.followers[f].host for f in self.of[owner] if f != other}
            if self.followers[other].host in mine or self.followers[follower].host in theirs:
                continue
            keeps = self._zones_apart if self._zones_apart(owner, other) else self._hosts_apart
            gains = self._zones_apart if self._zones_apart(leader, follower) else self._hosts_apart
            if keeps(owner, follower) and gains(leader, other):
                self._unlink(other)
                self._link(owner, follower)
                self._link(leader, other)
                return
