# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Makes one cluster of servers, as a plan says: gossip at a quick pace, slots, meetings, replicas, takeovers, farewells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import pace, ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.agreeing import (
    POLL,
    Agreement,
    Disagreement,
    unsettled,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Endpoint,
    Fleet,
    ReplyError,
    ValkeyError,
    checked,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.shape import Plan, States

# For which servers may have a brief node timeout.
HURRIED_SECONDS = 2.0


def do(fleet: Fleet, requests: Mapping[Endpoint, Sequence[Sequence[Any]]]) -> None:
    """Send commands to many servers at a time, each of which has to succeed. Raises ValkeyError."""
    for replies in fleet.each(requests).values():
        for reply in replies:
            checked(reply)


class Gossip:
    """The pace at which servers tell each other."""

    def __init__(self, fleet: Fleet, agreement: Agreement) -> None:
        self._fleet, self._agreement = fleet, agreement

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
        replies = self._fleet.each(
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
        do(self._fleet, requests)

    def calm(self, endpoints: Iterable[Endpoint]) -> None:
        """Give servers that are at our pace their own back, and read it back. Raises ValkeyError."""
        replies = self._fleet.all(endpoints, "CONFIG", "GET", pace.SETTING)
        delays = {endpoint: pace.read(reply) for endpoint, reply in replies.items()}
        ours = {endpoint: delay for endpoint, delay in delays.items() if delay is not None}
        own = self._timeouts(ours)
        do(
            self._fleet,
            {
                e: [("CONFIG", "SET", pace.SETTING, pace.NORMAL, pace.DELAY, delay, pace.TIMEOUT, own[e].lasting)]
                for e, delay in ours.items()
            },
        )
        for endpoint, reply in self._fleet.all(ours, "CONFIG", "GET", pace.SETTING).items():
            if pace.read(reply) is not None:
                raise ValkeyError(endpoint, f"{pace.SETTING} was not reset", f"Set it to {pace.NORMAL} by CONFIG SET")

    def hasten(self, endpoints: Sequence[Endpoint]) -> None:
        """Let the primaries of a new cluster serve as soon as they know each other.

        A primary without slots counts as one of a minority; once it has some it waits a node timeout, 5 s at most, before
        it serves (among_minority_time in clusterUpdateState of Valkey 8.1). So that timeout is brief for a moment, when
        everything else is there. Servers that can't keep up then simply wait. Raises Refusal and ValkeyError.
        """
        self._agreement.await_known(endpoints)
        late = [missing.endpoint for missing in self._agreement.not_serving(endpoints)]
        hurried = {e: t for e, t in self._timeouts(late).items() if t.brief is not None and not t.hurried}
        if not hurried:
            return
        self._set_pace({e: (t.interval + pace.HURRY, t.brief) for e, t in hurried.items()})
        end = self._agreement.clock() + HURRIED_SECONDS
        while self._agreement.not_serving(late) and self._agreement.clock() < end:
            self._agreement.sleep(POLL)
        self._set_pace({e: (t.interval, t.lasting) for e, t in hurried.items()})

    def _set_pace(self, wish: Mapping[Endpoint, tuple[int, int | None]]) -> None:
        do(self._fleet, {e: [("CONFIG", "SET", pace.SETTING, i, pace.TIMEOUT, t)] for e, (i, t) in wish.items()})

    def _timeouts(self, endpoints: Iterable[Endpoint]) -> dict[Endpoint, pace.Timeouts]:
        """Return the timeouts of the servers that are at our pace."""
        questions = [("CONFIG", "GET", pace.SETTING), ("CONFIG", "GET", pace.TIMEOUT)]
        found = {}
        for endpoint, [interval, timeout] in self._fleet.each(dict.fromkeys(endpoints, questions)).items():
            if pace.read(checked(interval)) is not None:
                found[endpoint] = pace.Timeouts(int(checked(interval)[1]), int(checked(timeout)[1]))
        return found

    def _calm_quietly(self, endpoint: Endpoint) -> ValkeyError | None:
        try:
            self.calm([endpoint])
        except ValkeyError as error:
            return error
        return None


class Forming:
    """Membership, slots of nodes that have none, and roles."""

    def __init__(self, fleet: Fleet, agreement: Agreement) -> None:
        self._fleet, self._agreement = fleet, agreement
        self._gossip = Gossip(fleet, agreement)

    def calm(self, endpoints: Iterable[Endpoint]) -> None:
        """Give servers that are at our pace their own back. Raises ValkeyError."""
        self._gossip.calm(endpoints)

    def introduce(self, states: States, plan: Plan, staying: Sequence[Endpoint]) -> None:
        """Carry out the part of a plan that makes a cluster of nodes: epochs, slots, meetings, replicas.

        staying: the servers that are members or become some. Returns when these agree.
        Raises ValkeyError and Refusal.
        """
        endpoint_of = {state.id: endpoint for endpoint, state in states.items()}
        if not plan.meet:
            self._assign(plan, endpoint_of)
            self._replicate(plan.replicate, endpoint_of)
            self._agreement.agree(staying, replicas=plan.replicate)
            return
        with self._gossip.quick(staying):
            if plan.forming:
                self._set_epochs(states, staying)
            self._assign(plan, endpoint_of)
            self._meet(states, plan.meet, staying)
            self._replicate(plan.replicate, endpoint_of)
            if plan.forming:
                self._gossip.hasten(staying)
            self._agreement.agree(staying, replicas=plan.replicate)

    def _set_epochs(self, states: States, endpoints: Sequence[Endpoint]) -> None:
        """Give nodes that know no other an epoch each; without, every meeting of two primaries is a collision."""
        highest = max(state.view.myself.epoch for state in states.values())
        fresh = [e for e in endpoints if states[e].view.alone and states[e].view.myself.epoch == 0]
        do(self._fleet, {e: [("CLUSTER", "SET-CONFIG-EPOCH", highest + n)] for n, e in enumerate(fresh, start=1)})

    def _assign(self, plan: Plan, endpoint_of: Mapping[str, Endpoint]) -> None:
        bounds: dict[Endpoint, list[int]] = {}
        for move in plan.assign:
            bounds.setdefault(endpoint_of[move.target], []).extend((move.first, move.last))
        do(self._fleet, {endpoint: [("CLUSTER", "ADDSLOTSRANGE", *words)] for endpoint, words in bounds.items()})

    def _meet(self, states: States, strangers: Sequence[str], staying: Sequence[Endpoint]) -> None:
        """Let one node, of the group that the strangers join, meet them all; gossip at the quick pace does the rest."""
        core = [endpoint for endpoint in staying if states[endpoint].id not in strangers]
        seed = core[0] if core else staying[0]
        others = [e for e in staying if states[e].id in strangers and e != seed]
        do(self._fleet, {seed: [("CLUSTER", "MEET", endpoint.address, endpoint.port) for endpoint in others]})

    def _replicate(self, follows: Mapping[str, str], endpoint_of: Mapping[str, Endpoint]) -> None:
        """Attach each replica as soon as it knows its primary."""
        waiting = {endpoint_of[replica]: primary for replica, primary in follows.items()}
        start = self._agreement.clock()
        while waiting:
            replies = self._fleet.each({e: [("CLUSTER", "REPLICATE", primary)] for e, primary in waiting.items()})
            for endpoint, [reply] in replies.items():
                if isinstance(reply, ReplyError) and _unknown(reply):
                    continue
                checked(reply)
                del waiting[endpoint]
            if waiting and self._agreement.clock() - start > self._agreement.wait_timeout:
                reasons = [Disagreement(e, f"does not know its primary {primary}") for e, primary in waiting.items()]
                raise unsettled(self._agreement.clock() - start, reasons)
            if waiting:
                self._agreement.sleep(POLL)

    def settle(self, states: States, marked: Mapping[str, ranges.Ranges]) -> None:
        """Clear migrating and importing marks on primaries. Raises ValkeyError."""
        endpoint_of = {state.id: endpoint for endpoint, state in states.items()}
        do(
            self._fleet,
            {
                endpoint_of[node]: [("CLUSTER", "SETSLOT", slot, "STABLE") for slot in ranges.expand(found)]
                for node, found in marked.items()
            },
        )

    def reset(self, states: States, replicas: Sequence[str]) -> None:
        """Let replicas begin anew: empty, primary, alone. They keep their ids and are met again. Raises ValkeyError."""
        endpoint_of = {state.id: endpoint for endpoint, state in states.items()}
        do(self._fleet, {endpoint_of[node]: [("CLUSTER", "RESET", "SOFT")] for node in replicas})

    def promote(self, states: States, promotions: Mapping[str, str], staying: Sequence[Endpoint]) -> None:
        """Let replicas take over from their primaries without losing a write, one after the other.

        staying: the servers that have to agree after each.
        Raises Refusal when a takeover doesn't happen, ValkeyError.
        """
        endpoint_of = {state.id: endpoint for endpoint, state in states.items()}
        for replica in promotions.values():
            endpoint = endpoint_of[replica]
            self._fleet.client(endpoint).call("CLUSTER", "FAILOVER")
            self._agreement.await_leading(endpoint)
            self._agreement.agree(staying)

    def forget(self, states: States, leaving: Sequence[str]) -> None:
        """Take nodes out of the cluster: all others forget them, they forget all others. Raises ValkeyError."""
        staying = [endpoint for endpoint, state in states.items() if state.id not in leaving]
        replies = self._fleet.each({e: [("CLUSTER", "FORGET", node) for node in leaving] for e in staying})
        for found in replies.values():
            for reply in found:
                if not (isinstance(reply, ReplyError) and _unknown(reply)):
                    checked(reply)
        do(self._fleet, {e: [("CLUSTER", "RESET", "HARD")] for e, state in states.items() if state.id in leaving})


def _unknown(error: ReplyError) -> bool:
    return "Unknown node" in error.problem or "I don't know about node" in error.problem
