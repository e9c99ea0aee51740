# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The gossip pace of servers while they meet, and how an interrupted run tells what to go back to. No I/O.

Nodes learn of each other by pings, so their interval limits how fast a cluster forms: `cluster-ping-interval` is a hidden setting
(milliseconds in which a node pings every other one) whose default 0 is the built-in pace. The more nodes there are, the more
each ping tells and the more pings there are, so the interval grows with them.

While nodes meet, the interval is a step of the pace plus the node's `repl-diskless-sync-delay` (seconds), which is 0 meanwhile: the
one number tells both values to go back to, also to a later run. At the end the node timeout is brief for a moment
(forming.Gossip.hasten), and tells its own in the same way. None is written to the servers' configuration files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SETTING = "cluster-ping-interval"
DELAY = "repl-diskless-sync-delay"
TIMEOUT = "cluster-node-timeout"
NORMAL = 0
STEP = 200
STEPS = 10
# No round number, which might be an operator's own.
MARK = 7
LONGEST_DELAY = 60
# Added to the interval while the timeout is brief, and what is added to tenths of seconds to have a brief one.
HURRY = 100
BRIEF = 500
# Tenths of seconds. What is no longer than a brief one needs none.
TIMEOUTS = range(12, 601)
# Square of the number of nodes for which one millisecond of the interval is enough. Measured with 60, 120 and 200 nodes on two
# cores: twice the pings cost more of the servers' time than they save, half of them keep roles waiting.
NODES_SQUARED = 25


def interval(nodes: int, delay: int) -> int:
    """Return the interval while so many nodes meet, in milliseconds, for a server with this delay in seconds."""
    steps = max(1, min(STEPS, nodes * nodes // NODES_SQUARED // STEP))
    return steps * STEP + MARK + delay


def _rest(value: int) -> int | None:
    """Return what an interval of ours tells beside its step, None for another one."""
    rest = value % STEP - MARK
    ours = STEP <= value < (STEPS + 1) * STEP and rest >= 0 and rest % HURRY <= LONGEST_DELAY
    return rest if ours else None


def read(reply: Sequence[str]) -> int | None:
    """Return the delay to go back to out of a reply of CONFIG GET, None when the pace is not ours."""
    value = dict(zip(reply[::2], reply[1::2], strict=True)).get(SETTING)
    rest = None if value is None else _rest(int(value))
    return None if rest is None else rest % HURRY


def brief(timeout: int) -> int | None:
    """Return the brief timeout, in milliseconds, that tells this one to go back to; None where there is none."""
    tenths, rest = divmod(timeout, 100)
    return None if rest or tenths not in TIMEOUTS else BRIEF + tenths


@dataclass(frozen=True)
class Timeouts:
    """What says how long a server at our pace waits: its ping interval and its node timeout now, in milliseconds."""

    interval: int
    now: int

    @property
    def hurried(self) -> bool:
        """Whether the timeout is a brief one."""
        return (_rest(self.interval) or 0) >= HURRY

    @property
    def lasting(self) -> int:
        """The server's own node timeout."""
        return (self.now - BRIEF) * 100 if self.hurried else self.now

    @property
    def brief(self) -> int | None:
        """The brief one that tells it."""
        return brief(self.lasting)
