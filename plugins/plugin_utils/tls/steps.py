# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The steps of a rotation of certificates: which is under way, which may come next. No files, no clock.

`leaves` issues all certificates anew. A new authority takes three steps, each of which issues them, too: `begin`, every server
trusts the old and the new one; `switch`, certificates come from the new one; `finish`, nobody trusts the old one any more. A step
ends when it is proven on every host; until then it can only be repeated.
"""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass

STATE_FILE = "rotation.json"
STEPS = ("leaves", "begin", "switch", "finish")
FOLLOWS = {"leaves": "", "begin": "", "switch": "begin", "finish": "switch"}


@dataclass(frozen=True)
class State:
    """A rotation under way. step: empty for none; since: when it began, certificates older than that are issued anew."""

    step: str = ""
    since: datetime.datetime | None = None
    proven: bool = False

    @property
    def replaces_authority(self) -> bool:
        """Whether there are two authorities."""
        return self.step in ("begin", "switch", "finish")

    def to_json(self) -> str:
        """Return the content of the file."""
        since = self.since.isoformat() if self.since else ""
        return json.dumps({"format": 1, "step": self.step, "since": since, "proven": self.proven}) + "\n"

    @classmethod
    def from_json(cls, text: str) -> State:
        """Return what the file says. Raises ValueError."""
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("step") not in STEPS or data.get("format") != 1:
            raise ValueError(f"a rotation of format 1 in a step of {', '.join(STEPS)} was expected")
        return cls(data["step"], datetime.datetime.fromisoformat(data["since"]), bool(data["proven"]))


def refusal(state: State, step: str) -> str:
    """Return why the step cannot be taken now, with what to do, or nothing where it can."""
    if step == state.step or (FOLLOWS[step] == state.step and (state.proven or not state.step)):
        return ""
    if not state.step:
        return f"no new authority is begun: run it with rotate_certificates_ca={FOLLOWS[step]} first"
    if state.proven:
        return f"{_name(state.step)} was done last: run it with rotate_certificates_ca={_after(state.step)} now"
    how = "without rotate_certificates_ca" if state.step == "leaves" else f"with rotate_certificates_ca={state.step}"
    return f"{_name(state.step)} is under way and not proven on every host: run it again {how}"


def take(state: State, step: str, now: datetime.datetime) -> State:
    """Return the state in which the step is under way; a step that is repeated continues with what it has issued."""
    if step == state.step:
        return state
    return State(step, now.replace(microsecond=0), False)


def prove(state: State) -> State:
    """Return the state after every host was seen to be as the step wants it."""
    if state.step in ("leaves", "finish"):
        return State()
    return State(state.step, state.since, True)


def _after(step: str) -> str:
    return next(name for name, before in FOLLOWS.items() if before == step)


def _name(step: str) -> str:
    return {"leaves": "a rotation of all certificates", "begin": "the step begin", "switch": "the step switch"}.get(
        step, "the step finish"
    )
