"""Talks to the servers of a cluster: reads their states, carries out a plan, waits until they agree."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import databases, healing, pace, ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Endpoint,
    Fleet,
    ReplyError,
    ValkeyError,
    checked,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.migration import Member
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.shape import Plan, State, States
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.slots import Move
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import (
    Sight,
    parse_info,
    parse_nodes,
    parse_server,
    parse_sight,
    parse_spaces,
    version_of,
)

POLL = 0.03
# For which servers may have a brief node timeout.
HURRIED_SECONDS = 2.0
NOT_YET = ("LOADING", "MASTERDOWN", "BUSY")


@dataclass(frozen=True)
class Disagreement:
    """Why servers don't agree yet: the server and what is missing there."""

    endpoint: Endpoint
    reason: str


def unsettled(seconds: float, disagreements: Sequence[Disagreement]) -> Refusal:
    """Return the refusal to go on with servers that did not come to agree within so many seconds."""
    found = "; ".join(f"{item.endpoint}: {item.reason}" for item in disagreements[:5])
    return Refusal(
        f"after {seconds:.0f} s the servers don't agree: {found}",
        "Check that every node reaches the others' client and bus ports, then run again",
    )


class Cluster:
    """A set of servers. wait_timeout: seconds in which they have to agree after a change."""

    def __init__(
        self,
        fleet: Fleet,
        endpoints: Iterable[Endpoint],
        *,
        wait_timeout: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.fleet = fleet
        self.endpoints = tuple(endpoints)
        self.wait_timeout = wait_timeout
        self._clock = clock
        self._sleep = sleep

    def observe(self) -> dict[Endpoint, State]:
        """Read the state of every server, changing nothing. Raises ValkeyError."""
        replies = self.fleet.each(
            {
                endpoint: [
                    ("CLUSTER", "NODES"),
                    ("INFO",),
                    ("CONFIG", "GET", pace.SETTING),
                    ("CONFIG", "GET", databases.SETTING),
                ]
                for endpoint in self.endpoints
            }
        )
        return self._with_keys({endpoint: _state(found) for endpoint, found in replies.items()})

    def versions(self) -> dict[Endpoint, tuple[int, ...]]:
        """Return the version of every server. Raises ValkeyError."""
        replies = self.fleet.all(self.endpoints, "INFO", "server")
        return {endpoint: version_of(parse_info(reply)) for endpoint, reply in replies.items()}

    def _with_keys(self, states: dict[Endpoint, State]) -> dict[Endpoint, State]:
        """Add how many keys each server has of the slots in doubt, in all its databases."""
        nodes = [state.view.myself for state in states.values()]
        owned = {slot for node in nodes for slot in ranges.expand(node.slots)}
        doubt = sorted(healing.doubtful(nodes, owned))
        if not doubt:
            return states
        replies = self.fleet.each({e: databases.counting(doubt, state.server.filled) for e, state in states.items()})
        found = {e: databases.counted(doubt, states[e].server.filled, answers) for e, answers in replies.items()}
        held = {e: {slot: databases.total(numbers) for slot, numbers in counts.items()} for e, counts in found.items()}
        return {endpoint: replace(state, held=held[endpoint]) for endpoint, state in states.items()}

    @contextmanager
    def quick(self, endpoints: Sequence[Endpoint]) -> Iterator[None]:
        """Let servers gossip fast inside the block; set and verify their own pace after it, whatever happened in it."""
        self._quicken(endpoints)
        try:
            yield
        except ValkeyError:
            # A broken server must not keep the others at the pace; the first error is the one to tell.
            for endpoint in endpoints:
                self._calm_quietly(endpoint)
            raise
        except BaseException:
            self.calm(endpoints)
            raise
        self.calm(endpoints)

    def _quicken(self, endpoints: Sequence[Endpoint]) -> None:
        replies = self.fleet.each(
            {e: [("CONFIG", "GET", pace.SETTING), ("CONFIG", "GET", pace.DELAY)] for e in endpoints}
        )
        requests = {}
        for endpoint, [interval, delay] in replies.items():
            values = dict([checked(interval)[:2], checked(delay)[:2]] if checked(interval) else [])
            seconds = int(values.get(pace.DELAY, 0))
            if values.get(pace.SETTING) == str(pace.NORMAL) and seconds <= pace.LONGEST_DELAY:
                requests[endpoint] = [
                    ("CONFIG", "SET", pace.SETTING, pace.interval(len(endpoints), seconds), pace.DELAY, 0)
                ]
        self._do(requests)

    def calm(self, endpoints: Iterable[Endpoint]) -> None:
        """Give servers that are at our pace their own back, and read it back. Raises ValkeyError."""
        replies = self.fleet.all(endpoints, "CONFIG", "GET", pace.SETTING)
        delays = {endpoint: pace.read(reply) for endpoint, reply in replies.items()}
        ours = {endpoint: delay for endpoint, delay in delays.items() if delay is not None}
        own = self._timeouts(ours)
        self._do(
            {
                e: [("CONFIG", "SET", pace.SETTING, pace.NORMAL, pace.DELAY, delay, pace.TIMEOUT, own[e].lasting)]
                for e, delay in ours.items()
            }
        )
        for endpoint, reply in self.fleet.all(ours, "CONFIG", "GET", pace.SETTING).items():
            if pace.read(reply) is not None:
                raise ValkeyError(endpoint, f"{pace.SETTING} did not go back", f"Set it to {pace.NORMAL} by CONFIG SET")

    def hasten(self, endpoints: Sequence[Endpoint]) -> None:
        """Let the primaries of a new cluster serve as soon as they know each other.

        A primary without slots counts as one of a minority; once it has some it waits a node timeout, 5 s at most, before
        it serves (among_minority_time in clusterUpdateState of Valkey 8.1). So that timeout is brief for a moment, when
        everything else is there. Servers that can't keep up then simply wait. Raises Refusal and ValkeyError.
        """
        self._wait_for(lambda: self._not_knowing(endpoints), len(endpoints))
        late = [missing.endpoint for missing in self._not_serving(endpoints)]
        hurried = {e: t for e, t in self._timeouts(late).items() if t.brief is not None and not t.hurried}
        if not hurried:
            return
        self._set_pace({e: (t.interval + pace.HURRY, t.brief) for e, t in hurried.items()})
        end = self._clock() + HURRIED_SECONDS
        while self._not_serving(late) and self._clock() < end:
            self._sleep(POLL)
        self._set_pace({e: (t.interval, t.lasting) for e, t in hurried.items()})

    def _set_pace(self, wish: Mapping[Endpoint, tuple[int, int | None]]) -> None:
        self._do({e: [("CONFIG", "SET", pace.SETTING, i, pace.TIMEOUT, t)] for e, (i, t) in wish.items()})

    def _timeouts(self, endpoints: Iterable[Endpoint]) -> dict[Endpoint, pace.Timeouts]:
        """Return the timeouts of the servers that are at our pace."""
        questions = [("CONFIG", "GET", pace.SETTING), ("CONFIG", "GET", pace.TIMEOUT)]
        found = {}
        for endpoint, [interval, timeout] in self.fleet.each(dict.fromkeys(endpoints, questions)).items():
            if pace.read(checked(interval)) is not None:
                found[endpoint] = pace.Timeouts(int(checked(interval)[1]), int(checked(timeout)[1]))
        return found

    def _calm_quietly(self, endpoint: Endpoint) -> ValkeyError | None:
        try:
            self.calm([endpoint])
        except ValkeyError as error:
            return error
        return None

    def introduce(self, states: States, plan: Plan, staying: Sequence[Endpoint]) -> None:
        """Carry out the part of a plan that makes a cluster of nodes: epochs, slots, meetings, replicas.

        staying: the servers that are members or become some. Returns when these agree.
        Raises ValkeyError and Refusal.
        """
        endpoint_of = {state.id: endpoint for endpoint, state in states.items()}
        if not plan.meet:
            self._assign(plan, endpoint_of)
            self._replicate(plan.replicate, endpoint_of)
            self.agree(staying, replicas=plan.replicate)
            return
        with self.quick(staying):
            if plan.forming:
                self._set_epochs(states, staying)
            self._assign(plan, endpoint_of)
            self._meet(states, plan.meet, staying)
            self._replicate(plan.replicate, endpoint_of)
            if plan.forming:
                self.hasten(staying)
            self.agree(staying, replicas=plan.replicate)

    def _do(self, requests: Mapping[Endpoint, Sequence[Sequence[Any]]]) -> None:
        for replies in self.fleet.each(requests).values():
            for reply in replies:
                checked(reply)

    def _set_epochs(self, states: States, endpoints: Sequence[Endpoint]) -> None:
        """Give nodes that know no other an epoch each; without, every meeting of two primaries is a collision."""
        highest = max(state.view.myself.epoch for state in states.values())
        fresh = [e for e in endpoints if states[e].view.alone and states[e].view.myself.epoch == 0]
        self._do({e: [("CLUSTER", "SET-CONFIG-EPOCH", highest + n)] for n, e in enumerate(fresh, start=1)})

    def _assign(self, plan: Plan, endpoint_of: Mapping[str, Endpoint]) -> None:
        bounds: dict[Endpoint, list[int]] = {}
        for move in plan.assign:
            bounds.setdefault(endpoint_of[move.target], []).extend((move.first, move.last))
        self._do({endpoint: [("CLUSTER", "ADDSLOTSRANGE", *words)] for endpoint, words in bounds.items()})

    def _meet(self, states: States, strangers: Sequence[str], staying: Sequence[Endpoint]) -> None:
        """Let one node, of the group that the strangers join, meet them all; gossip at the quick pace does the rest."""
        core = [endpoint for endpoint in staying if states[endpoint].id not in strangers]
        seed = core[0] if core else staying[0]
        others = [e for e in staying if states[e].id in strangers and e != seed]
        self._do({seed: [("CLUSTER", "MEET", endpoint.address, endpoint.port) for endpoint in others]})

    def _replicate(self, follows: Mapping[str, str], endpoint_of: Mapping[str, Endpoint]) -> None:
        """Attach each replica as soon as it knows its primary."""
        waiting = {endpoint_of[replica]: primary for replica, primary in follows.items()}
        start = self._clock()
        while waiting:
            replies = self.fleet.each({e: [("CLUSTER", "REPLICATE", primary)] for e, primary in waiting.items()})
            for endpoint, [reply] in replies.items():
                if isinstance(reply, ReplyError) and _unknown(reply):
                    continue
                checked(reply)
                del waiting[endpoint]
            if waiting and self._clock() - start > self.wait_timeout:
                reasons = [Disagreement(e, f"does not know its primary {primary}") for e, primary in waiting.items()]
                raise unsettled(self._clock() - start, reasons)
            if waiting:
                self._sleep(POLL)

    def agree(self, endpoints: Sequence[Endpoint], replicas: Iterable[str] = ()) -> None:
        """Wait until servers know each other and have the same owners, roles and epochs, and links of replicas are up.

        replicas: ids of the replicas whose links are waited for. Raises Refusal after wait_timeout, ValkeyError.
        """
        self._wait_for(lambda: self.disagreements(endpoints, set(replicas)), len(endpoints))

    def await_serving(self, endpoints: Sequence[Endpoint]) -> None:
        """Wait until servers serve: one that has just started, or was cut off, says CLUSTERDOWN for up to 5 s after it is back.

        Source: clusterUpdateState of Valkey 8.1 (CLUSTER_WRITABLE_DELAY, CLUSTER_MAX_REJOIN_DELAY). Raises Refusal after
        wait_timeout, ValkeyError.
        """
        self._wait_for(lambda: self._not_serving(endpoints), len(endpoints))

    def _not_serving(self, endpoints: Sequence[Endpoint]) -> list[Disagreement]:
        replies = self._ask(endpoints, "CLUSTER", "INFO")
        return [
            Disagreement(endpoint, "cluster_state is not ok")
            for endpoint, reply in replies.items()
            if isinstance(reply, ReplyError) or parse_info(reply)["cluster_state"] != "ok"
        ]

    def _wait_for(self, missing: Callable[[], list[Disagreement]], servers: int) -> None:
        start = self._clock()
        while found := missing():
            if self._clock() - start > self.wait_timeout:
                raise unsettled(self._clock() - start, found)
            self._sleep(max(POLL, servers * 0.001))

    def disagreements(self, endpoints: Sequence[Endpoint], replicas: set[str]) -> list[Disagreement]:
        """Return what servers don't agree on now; the cheap questions first. Raises ValkeyError."""
        missing = []
        for endpoint, reply in self._ask(endpoints, "CLUSTER", "INFO").items():
            if isinstance(reply, ReplyError):
                missing.append(Disagreement(endpoint, reply.problem))
                continue
            info = parse_info(reply)
            if int(info["cluster_known_nodes"]) < len(endpoints):
                missing.append(Disagreement(endpoint, f"knows {info['cluster_known_nodes']} of {len(endpoints)} nodes"))
            elif info["cluster_state"] != "ok" and int(info["cluster_slots_assigned"]) == ranges.SLOT_COUNT:
                missing.append(Disagreement(endpoint, "cluster_state is not ok"))
        return missing or self._differing(endpoints, replicas)

    def _not_knowing(self, endpoints: Sequence[Endpoint]) -> list[Disagreement]:
        missing = []
        for endpoint, reply in self._ask(endpoints, "CLUSTER", "INFO").items():
            info = {} if isinstance(reply, ReplyError) else parse_info(reply)
            nodes, slots = (int(info.get(name, 0)) for name in ("cluster_known_nodes", "cluster_slots_assigned"))
            if nodes < len(endpoints) or slots < ranges.SLOT_COUNT:
                missing.append(
                    Disagreement(endpoint, f"knows {nodes} of {len(endpoints)} nodes and the owners of {slots} slots")
                )
        return missing

    def _differing(self, endpoints: Sequence[Endpoint], replicas: set[str]) -> list[Disagreement]:
        replies = self._ask(endpoints, "CLUSTER", "NODES")
        late = [Disagreement(e, r.problem) for e, r in replies.items() if isinstance(r, ReplyError)]
        if late:
            return late
        sights = {endpoint: parse_sight(reply) for endpoint, reply in replies.items()}
        missing = [Disagreement(e, reason) for e, sight in sights.items() if (reason := _unsettled(sight))]
        common = next(iter(sights.values())).signature
        missing += [Disagreement(e, "sees another topology") for e, s in sights.items() if s.signature != common]
        return missing or self._links_down([e for e, sight in sights.items() if sight.me in replicas])

    def _links_down(self, endpoints: Sequence[Endpoint]) -> list[Disagreement]:
        replies = self._ask(endpoints, "INFO", "replication")
        return [
            Disagreement(endpoint, "the link to its primary is not up")
            for endpoint, reply in replies.items()
            if isinstance(reply, ReplyError) or parse_info(reply).get("master_link_status") != "up"
        ]

    def _ask(self, endpoints: Sequence[Endpoint], *command: str) -> dict[Endpoint, Any]:
        """Ask many servers; an error that passes by itself stands in its place as ReplyError."""
        found = {}
        for endpoint, [reply] in self.fleet.each({e: [command] for e in endpoints}).items():
            if isinstance(reply, ReplyError) and reply.problem.split(": ", 1)[-1].split(" ")[0] not in NOT_YET:
                raise reply
            found[endpoint] = reply
        return found

    def settle(self, states: States, marked: Mapping[str, ranges.Ranges]) -> None:
        """Clear migrating and importing marks on primaries. Raises ValkeyError."""
        endpoint_of = {state.id: endpoint for endpoint, state in states.items()}
        self._do(
            {
                endpoint_of[node]: [("CLUSTER", "SETSLOT", slot, "STABLE") for slot in ranges.expand(found)]
                for node, found in marked.items()
            }
        )

    def reset(self, states: States, replicas: Sequence[str]) -> None:
        """Let replicas begin anew: empty, primary, alone. They keep their ids and are met again. Raises ValkeyError."""
        endpoint_of = {state.id: endpoint for endpoint, state in states.items()}
        self._do({endpoint_of[node]: [("CLUSTER", "RESET", "SOFT")] for node in replicas})

    def promote(self, states: States, promotions: Mapping[str, str], staying: Sequence[Endpoint]) -> None:
        """Let replicas take over from their primaries without losing a write, one after the other.

        staying: the servers that have to agree after each.
        Raises Refusal when a takeover doesn't happen, ValkeyError.
        """
        endpoint_of = {state.id: endpoint for endpoint, state in states.items()}
        for replica in promotions.values():
            endpoint = endpoint_of[replica]
            self.fleet.client(endpoint).call("CLUSTER", "FAILOVER")
            self._wait_leads(endpoint)
            self.agree(staying)

    def _wait_leads(self, endpoint: Endpoint) -> None:
        start = self._clock()
        while not parse_nodes(self.fleet.client(endpoint).call("CLUSTER", "NODES")).myself.is_primary:
            if self._clock() - start > self.wait_timeout:
                reason = Disagreement(endpoint, "did not take over from its primary")
                raise unsettled(self._clock() - start, [reason])
            self._sleep(POLL)

    def forget(self, states: States, leaving: Sequence[str]) -> None:
        """Take nodes out of the cluster: all others forget them, they forget all others. Raises ValkeyError."""
        staying = [endpoint for endpoint, state in states.items() if state.id not in leaving]
        replies = self.fleet.each({e: [("CLUSTER", "FORGET", node) for node in leaving] for e in staying})
        for found in replies.values():
            for reply in found:
                if not (isinstance(reply, ReplyError) and _unknown(reply)):
                    checked(reply)
        self._do({e: [("CLUSTER", "RESET", "HARD")] for e, state in states.items() if state.id in leaving})


def settled(states: States, endpoints: Iterable[Endpoint]) -> bool:
    """Return whether these servers already agree, with nobody down and nobody half met, by what they said last."""
    views = [states[endpoint].view for endpoint in endpoints]
    for node in (node for view in views for node in view.nodes):
        if node.failed or node.suspected or node.handshake or not (node.link_up or node.myself):
            return False
    return len({view.signature for view in views}) == 1


def members(states: States) -> dict[str, Member]:
    """Return the primaries as migration engines want them. A server may not know its address; its port it does."""
    known = {node.id: node for state in states.values() for node in state.view.members if node.address}
    found = {}
    for endpoint, state in states.items():
        if not state.view.myself.is_primary or state.view.alone:
            continue
        me = state.view.myself
        address = me.address or known[state.id].address
        found[state.id] = Member(
            state.id, endpoint, address, me.port, state.server.version, bool(me.slots), state.databases
        )
    return found


def count_keys(fleet: Fleet, endpoint: Endpoint, moves: Iterable[Move]) -> int:
    """Return how many keys a server has in the slots of moves, in all its databases. Raises ValkeyError."""
    client = fleet.client(endpoint)
    slots = [slot for move in moves for slot in ranges.expand([move.slots])]
    filled = parse_spaces(parse_info(client.call("INFO", "keyspace")))
    counts = databases.counted(slots, filled, client.pipeline(databases.counting(slots, filled)))
    return sum(databases.total(numbers) for numbers in counts.values())


def _state(replies: Sequence[Any]) -> State:
    nodes, info, interval, number = (checked(reply) for reply in replies)
    return State(parse_nodes(nodes), parse_server(info), pace.read(interval), databases=databases.limit(number))


def _unsettled(sight: Sight) -> str:
    if sight.handshake:
        return "is still meeting nodes"
    return f"has no link to {', '.join(sight.unlinked[:3])}" if sight.unlinked else ""


def _unknown(error: ReplyError) -> bool:
    return "Unknown node" in error.problem or "I don't know about node" in error.problem
