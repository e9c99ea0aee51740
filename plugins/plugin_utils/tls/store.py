# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The certificates' folder on the controller: reading, issuing what is missing, writing whole files only.

Layout: ca.key, ca.crt, hosts/<host>/<service>.pem, clients/<name>.key, clients/<name>.crt; what a rotation adds to it is
in rotation.py.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal, Refusals
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.certificates import (
    Authority,
    Wish,
    certificate_pem,
    issue,
    key_pem,
    leaf_pem,
    make_authority,
    make_key,
    parse_authority,
    parse_key,
    parse_leaf,
    problems_of_foreign,
    reason_to_issue,
)
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.steps import STATE_FILE, State


@dataclass(frozen=True)
class Terms:
    """How certificates are issued. Times in days; now is aware, UTC."""

    organization: str
    now: datetime.datetime
    days: int
    renew_days: int
    ca_days: int


@dataclass
class Outcome:
    """What the folder gave. A PEM is None where check mode would issue it; issued: why, by name."""

    ca: str | None = None
    pems: dict[str, str | None] = field(default_factory=dict)
    issued: dict[str, str] = field(default_factory=dict)


class Store:
    """The folder of the cluster's own authority."""

    def __init__(self, folder: str, terms: Terms, check_mode: bool) -> None:
        self._folder = folder
        self._terms = terms
        self._check_mode = check_mode
        self._rotation = State()

    def provide(self, host: str, wishes: Mapping[str, Wish], clients: Mapping[str, Wish]) -> Outcome:
        """Return the host's PEMs by service, after issuing what is missing, changed or about to expire.

        One process at a time works in the folder. Raises Refusals and OSError.
        """
        if self._terms.renew_days >= self._terms.days:
            raise Refusals(
                [
                    f"tls_renew_days is {self._terms.renew_days}, tls_days {self._terms.days}: every run would issue "
                    "all certificates anew; let certificates be valid for longer than they are renewed ahead"
                ]
            )
        outcome = Outcome()
        with locked(self._folder, self._check_mode):
            self._rotation = read_rotation(self._folder)
            authority = self._authority(outcome)
            for service, wish in wishes.items():
                path = os.path.join(self._folder, "hosts", host, service + ".pem")
                outcome.pems[service] = self._leaf(path, service, wish, authority, outcome)
            for name, wish in clients.items():
                self._client(name, wish, authority, outcome)
        return outcome

    def _authority(self, outcome: Outcome) -> Authority | None:
        key_path, path = os.path.join(self._folder, "ca.key"), os.path.join(self._folder, "ca.crt")
        key, certificate = read_if_there(key_path), read_if_there(path)
        if certificate is None:
            outcome.issued["ca"] = "is missing"
            if self._check_mode:
                return None
            # A run that was killed between the two files continues with the key it made.
            private = make_key() if key is None else read_key(key_path, key)
            write_whole(key_path, key_pem(private))
            made = make_authority(self._terms.organization, private, self._terms.now, self._terms.ca_days)
            write_whole(path, certificate_pem([made]))
            key, certificate = read_if_there(key_path), read_if_there(path)
        authority = read_authority(path, certificate or b"", key)
        if not self._rotation.replaces_authority:
            refuse_old_authority(path, authority, self._terms)
        outcome.ca = (certificate or b"").decode()
        return authority

    def _leaf(self, path: str, name: str, wish: Wish, authority: Authority | None, outcome: Outcome) -> str | None:
        found = read_if_there(path)
        reason = self._reason(found, wish, authority)
        if not reason and found is not None:
            return found.decode()
        outcome.issued[name] = reason
        if self._check_mode or authority is None:
            return None
        pem = leaf_pem(self._issue(path, wish, authority))
        write_whole(path, pem)
        return pem.decode()

    def _client(self, name: str, wish: Wish, authority: Authority | None, outcome: Outcome) -> None:
        base = os.path.join(self._folder, "clients", name)
        key, certificate = read_if_there(base + ".key"), read_if_there(base + ".crt")
        found = None if key is None or certificate is None else key + certificate
        reason = self._reason(found, wish, authority)
        if not reason:
            return
        outcome.issued["clients/" + name] = reason
        if self._check_mode or authority is None:
            return
        # Killed between the two: the key doesn't match its certificate, and the next run issues both anew.
        leaf = self._issue(base + ".crt", wish, authority)
        write_together({base + ".key": key_pem(leaf.key), base + ".crt": certificate_pem([leaf.certificate])})

    def _reason(self, found: bytes | None, wish: Wish, authority: Authority | None) -> str:
        if found is None:
            return "is missing"
        if authority is None:
            return "the authority is missing"
        try:
            leaf = parse_leaf(found)
        except Refusal as error:
            return str(error)
        renew_before = datetime.timedelta(days=self._terms.renew_days)
        return reason_to_issue(leaf, wish, authority, self._terms.now, renew_before, since=self._rotation.since)

    def _issue(self, path: str, wish: Wish, authority: Authority):
        try:
            return issue(wish, authority, self._terms.now, self._terms.days)
        except Refusal as error:
            raise Refusals(
                [f"{path} must be issued, but {error}: put ca.key back beside ca.crt for this run"]
            ) from error


def foreign(folder: str, host: str, wishes: Mapping[str, Wish], now: datetime.datetime) -> Outcome:
    """Return the PEMs of a folder that somebody else's authority filled. Raises Refusals with all problems."""
    path = os.path.join(folder, "ca.crt")
    certificate = read_if_there(path)
    if certificate is None:
        raise Refusals([f"{path} is missing: put the trusted certificates there"])
    authority = read_authority(path, certificate, None)
    outcome = Outcome(ca=certificate.decode())
    problems = []
    for service, wish in wishes.items():
        path = os.path.join(folder, "hosts", host, service + ".pem")
        pem, found = read_foreign(path, wish, authority, now)
        outcome.pems[service] = pem
        problems += [f"{path} {problem}" for problem in found]
    if problems:
        raise Refusals(problems)
    return outcome


def read_foreign(path: str, wish: Wish, authority: Authority, now: datetime.datetime) -> tuple[str | None, list[str]]:
    """Return (content of a foreign PEM, what is wrong with it)."""
    found = read_if_there(path)
    if found is None:
        return None, ["is missing: put private key and certificate there"]
    try:
        leaf = parse_leaf(found)
    except Refusal as error:
        return None, [f"cannot be used: {error}"]
    return found.decode(), problems_of_foreign(leaf, wish, authority, now)


def read_authority(path: str, certificate: bytes, key: bytes | None) -> Authority:
    """Return the authority. Raises Refusals."""
    try:
        return parse_authority(certificate, key)
    except Refusal as error:
        raise Refusals([f"{path}: {error}: restore ca.crt and ca.key from their backup"]) from error


def read_key(path: str, pem: bytes):
    """Return a private key. Raises Refusals."""
    try:
        return parse_key(pem)
    except Refusal as error:
        raise Refusals([f"{path} cannot be used: {error}: restore it from its backup"]) from error


def refuse_old_authority(path: str, authority: Authority, terms: Terms) -> None:
    """Raise Refusals where leaves would be renewed at every run, because the authority ends too soon."""
    end = authority.signing.not_valid_after_utc
    if end - datetime.timedelta(days=terms.renew_days) <= terms.now:
        raise Refusals(
            [
                f"{path} expires at {end:%Y-%m-%d %H:%M} UTC, within the {terms.renew_days} days of tls_renew_days: "
                "make a new authority, by rotate_certificates.yml -e rotate_certificates_ca=begin"
            ]
        )


def read_if_there(path: str) -> bytes | None:
    """Return the content of a file, None if it is missing."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def make_private(folder: str) -> None:
    """Make a folder and its missing parents, all of mode 0700."""
    if not os.path.isdir(folder):
        make_private(os.path.dirname(folder))
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)


def write_whole(path: str, content: bytes) -> None:
    """Write a file of mode 0600 in a folder of mode 0700; a killed run leaves the old file or the new one."""
    write_together({path: content})


def write_together(contents: Mapping[str, bytes]) -> None:
    """Write several files so that the moment in which some are new and others old is as short as can be."""
    temporaries: dict[str, str] = {}
    try:
        for path, content in contents.items():
            make_private(os.path.dirname(path))
            handle, temporaries[path] = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(handle)
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
    except BaseException:
        for temporary in temporaries.values():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        raise


@contextlib.contextmanager
def locked(folder: str, check_mode: bool) -> Iterator[None]:
    """Let one process at a time work in the folder, which is made unless in check mode."""
    if check_mode and not os.path.isdir(folder):
        yield
        return
    if not check_mode:
        make_private(folder)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def read_rotation(folder: str) -> State:
    """Return the rotation that is under way in the folder. Raises Refusals where its file cannot be read."""
    path = os.path.join(folder, STATE_FILE)
    content = read_if_there(path)
    try:
        return State.from_json(content.decode()) if content is not None else State()
    except ValueError as error:
        raise Refusals([f"{path} cannot be read ({error}): restore it from its backup"]) from error
