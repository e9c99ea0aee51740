# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Carries the steps of a rotation out on the certificates' folder of the controller.

Beside the layout of store.py: rotation.json, the step; ca.key.next, the key of the authority to come, whose certificate stands in
ca.crt already; ca.key.previous and ca.crt.previous, those of the one before, until nobody trusts it any more. Every change is a
file that is written whole or renamed; a killed run is completed by taking the same step again.
"""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusals
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.certificates import (
    Authority,
    Wish,
    belongs,
    certificate_pem,
    issue,
    key_pem,
    leaf_pem,
    make_authority,
    make_key,
    parse_authority,
)
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.steps import (
    STATE_FILE,
    State,
    prove,
    refusal,
    take,
)
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.store import (
    locked,
    read_authority,
    read_if_there,
    read_key,
    read_rotation,
    write_whole,
)

# Certificates that only show what a server trusts are good for this long.
PROOF_DAYS = 1
# pgBackRest hangs up on a client without a name, as if it did not trust it.
PROOF_NAME = "rotation-proof"


@dataclass(frozen=True)
class Taken:
    """What came of it. texts: what was done, or in check mode would be."""

    state: State
    texts: tuple[str, ...] = ()


class Rotation:
    """The rotation in one folder."""

    def __init__(self, folder: str, organization: str, now: datetime.datetime, ca_days: int, check_mode: bool) -> None:
        self._folder = folder
        self._organization = organization
        self._now = now
        self._ca_days = ca_days
        self._check_mode = check_mode
        self._texts: list[str] = []

    def take(self, step: str) -> Taken:
        """Begin the step, or continue with it. Raises Refusals where another one is due, and OSError."""
        with locked(self._folder, self._check_mode):
            state = read_rotation(self._folder)
            refused = refusal(state, step)
            if refused:
                raise Refusals([f"Nothing was changed: {refused}"])
            authority = self._authority()
            if step == "begin" and authority.key is None:
                raise Refusals(
                    [f"Nothing was changed: {self._path('ca.key')} is missing: put it back for the rotation"]
                )
            taken = take(state, step, self._now)
            if taken != state:
                self._do(f"take the step {step}", STATE_FILE, taken.to_json().encode())
            {"leaves": lambda _: None, "begin": self._begin, "switch": self._switch, "finish": self._finish}[step](
                authority
            )
            return Taken(taken, tuple(self._texts))

    def prove(self, step: str) -> Taken:
        """Note that every host is as the step wants it. Raises Refusals where another step is under way, and OSError."""
        with locked(self._folder, self._check_mode):
            state = read_rotation(self._folder)
            if self._check_mode:
                return Taken(state)
            if state.step != step:
                raise Refusals(
                    [f"the step under way is {state.step or 'none'} now, not {step}: another run was faster"]
                )
            proven = prove(state)
            if proven == state:
                return Taken(state)
            if proven.step:
                self._do(f"note that {step} is proven", STATE_FILE, proven.to_json().encode())
            else:
                # The state last: as long as it is there, the step can be repeated.
                for name in ("ca.key.previous", "ca.crt.previous", STATE_FILE):
                    self._delete(name)
            return Taken(proven, tuple(self._texts))

    def _begin(self, authority: Authority) -> None:
        path = self._path("ca.key.next")
        found = read_if_there(path)
        key = make_key() if found is None else read_key(path, found)
        if found is None:
            self._do("make the key of a new authority", "ca.key.next", key_pem(key))
        if any(belongs(certificate, key) for certificate in authority.certificates):
            return
        made = make_authority(self._organization, key, self._now, self._ca_days, f"{self._now:%Y-%m-%d %H:%M:%S}")
        self._do("trust the new authority, too", "ca.crt", certificate_pem([*authority.certificates, made]))

    def _switch(self, authority: Authority) -> None:
        if read_if_there(self._path("ca.key.next")) is None:
            return
        if authority.key is not None and read_if_there(self._path("ca.key.previous")) is None:
            self._do("keep the old authority", "ca.crt.previous", certificate_pem([authority.signing]))
            self._do("keep its key", "ca.key.previous", key_pem(authority.key))
        self._texts.append("issue by the new authority")
        if not self._check_mode:
            os.replace(self._path("ca.key.next"), self._path("ca.key"))

    def _finish(self, authority: Authority) -> None:
        path = self._path("ca.key.previous")
        found = read_if_there(path)
        if found is None:
            return
        old = read_key(path, found)
        kept = [certificate for certificate in authority.certificates if not belongs(certificate, old)]
        if len(kept) < len(authority.certificates):
            self._do("trust the old authority no more", "ca.crt", certificate_pem(kept))

    def _authority(self) -> Authority:
        certificate = read_if_there(self._path("ca.crt"))
        if certificate is None:
            raise Refusals([f"{self._path('ca.crt')} is missing: there is nothing to rotate, run site.yml first"])
        return read_authority(self._path("ca.crt"), certificate, read_if_there(self._path("ca.key")))

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def _do(self, text: str, name: str, content: bytes) -> None:
        self._texts.append(text)
        if not self._check_mode:
            write_whole(self._path(name), content)

    def _delete(self, name: str) -> None:
        if os.path.exists(self._path(name)):
            self._texts.append(f"delete {name}")
            os.unlink(self._path(name))


def strangers(folder: str, organization: str, now: datetime.datetime) -> tuple[State, dict[str, str]]:
    """Return (the rotation under way, client PEMs that show what servers trust).

    `trusted` is by the authority to come, which servers must accept already; `distrusted` by the one that was removed.
    Raises Refusals and OSError.
    """
    with locked(folder, True):
        state = read_rotation(folder)
        names = {
            "begin": ("trusted", "ca.crt", "ca.key.next"),
            "finish": ("distrusted", "ca.crt.previous", "ca.key.previous"),
        }
        if state.step not in names:
            return state, {}
        kind, certificates, key_name = names[state.step]
        certificate, key = (read_if_there(os.path.join(folder, name)) for name in (certificates, key_name))
        if certificate is None or key is None:
            return state, {}
        authority = parse_authority(certificate, key)
        leaf = issue(Wish(organization, PROOF_NAME, (), ("client",)), authority, now, PROOF_DAYS)
        return state, {kind: leaf_pem(leaf).decode()}
