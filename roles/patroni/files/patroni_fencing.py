# SPDX-License-Identifier: Apache-2.0
"""Power the silent host of PostgreSQL's primary off and let another member lead at once, in place of after the lease's time.

Runs beside every member. Where nothing of the leader's host answers for a while, a majority of the other members says so in etcd;
one of them runs the command that was declared. Only where that confirms that the power is off, and the host is still silent,
the dead member's lease is ended, so that its leader key goes. In any doubt nothing is done, and Patroni waits for the lease.
"""

from __future__ import annotations

import contextlib
import errno
import json
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import yaml
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.client import EtcdError, patiently
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.keys import Keys
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni import beside, fencing
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.rest import PatroniError

SETTINGS = "/etc/holdfast/patroni-fencing.json"
LOOK_SECONDS = 0.25
ANSWER_SECONDS = 0.5
REQUEST_SECONDS = 1.0
REVOKE_SECONDS = 20.0
VOTE_SECONDS = 5
ELECTION_SECONDS = 5.0
# By this number routes are known as this program's own (/etc/iproute2/rt_protos has none of it).
ROUTES = "199"
# A host that failed to fence keeps the others from trying for as long.
SPARE_SECONDS = 60
ANSWERS = (0, errno.ECONNREFUSED, errno.ECONNRESET)
VOTES = "fencing/silent/"
TOKEN = "fencing/at-work/"


def answers(address: str, ports: list[int], seconds: float) -> bool:
    """Return whether anything listens or refuses there: both come from a host that is on."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with selectors.DefaultSelector() as waiting:
        links = [socket.socket(family) for _port in ports]
        try:
            for link, port in zip(links, ports, strict=True):
                link.setblocking(False)
                link.connect_ex((address, port))
                waiting.register(link, selectors.EVENT_WRITE)
            deadline = time.monotonic() + seconds
            while waiting.get_map() and (left := deadline - time.monotonic()) > 0:
                for key, _events in waiting.select(left):
                    waiting.unregister(key.fileobj)
                    link = next(link for link in links if link is key.fileobj)
                    # What the network says of a host that it cannot find is no answer of the host.
                    if link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in ANSWERS:
                        return True
        finally:
            for link in links:
                link.close()
    return False


def routes(*words: str) -> None:
    """Change this host's routes. Raises OSError."""
    done = subprocess.run(["ip", *words, "proto", ROUTES], capture_output=True, text=True, timeout=10, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@contextlib.contextmanager
def unreachable(address: str) -> Iterator[None]:
    """Let connections to a host that is off fail at once meanwhile.

    Patroni asks the dead leader's host, too, before it takes the lock, and waits two seconds for an answer
    (fetch_nodes_statuses of 3.0 to 4.1).
    """
    family, length = ("-6", 128) if ":" in address else ("-4", 32)
    route = ("unreachable", f"{address}/{length}")
    try:
        routes(family, "route", "replace", *route)
    except OSError as error:
        print(f"the election waits for {address}: {error}", file=sys.stderr, flush=True)
        yield
        return
    try:
        yield
    finally:
        routes(family, "route", "delete", *route)


class Fencing:
    """Looks, votes, acts. Raises OSError, EtcdError and PatroniError, after which the next look continues."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        with open(beside.CONFIG, encoding="utf-8") as stream:
            self._config = yaml.safe_load(stream)
        self._name = str(self._config["name"])
        self._memory = fencing.Memory()
        self._address = ""
        self._lease = ""
        self._said = ""
        self._keys: Keys | None = None
        # etcd may be without a leader when the host dies: looking at the host does not wait for it.
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._reading: Any = None

    def _store(self) -> Keys:
        if self._keys is None:
            self._keys = beside.keys_of(self._config, REQUEST_SECONDS)
        return self._keys

    def _read(self) -> tuple[fencing.Leader | None, str]:
        """Return who leads, and the address of that member's host."""
        keys = self._store()
        leader = self._leader(keys)
        if leader is None or leader.name == self._name:
            return leader, ""
        if self._memory.leader == leader and self._address:
            return leader, self._address
        member = keys.get(beside.MEMBERS + leader.name)
        url = json.loads(member.value)["api_url"] if member else ""
        return leader, url.partition("//")[2].partition("/")[0].rpartition(":")[0].strip("[]")

    def turn(self) -> None:
        """Look once and do what follows from it."""
        if self._reading is None:
            self._reading = self._worker.submit(self._read)
        leader = self._memory.leader
        if self._reading.done():
            reading, self._reading = self._reading, None
            leader, self._address = reading.result()
        begun = time.monotonic()
        look = bool(leader and leader.name != self._name and self._address)
        answered = not look or answers(self._address, self._settings["ports"], ANSWER_SECONDS)
        self._memory = fencing.observe(self._memory, leader, answered, begun)
        if leader and fencing.is_silent(self._memory, self._settings["silence"], time.monotonic()):
            self._be_silent(leader)
        elif self._memory.silent_since is None:
            self._said = ""

    def _say(self, text: str) -> None:
        """Tell the journal what is new."""
        if text != self._said:
            print(text, flush=True)
        self._said = text

    def _vote(self, keys: Keys, leader: fencing.Leader) -> dict[str, str]:
        """Say in etcd that the leader is silent; return who says so."""
        if not self._lease or not keys.renew(self._lease):
            self._lease = keys.grant(VOTE_SECONDS)
        keys.put(VOTES + self._name, leader.lease, self._lease)
        return {name: entry.value for name, entry in keys.list(VOTES).items()}

    def _be_silent(self, leader: fencing.Leader) -> None:
        keys = self._store()
        votes = self._vote(keys, leader)
        urls = {name: url for name, url in beside.api_urls(keys).items() if name != leader.name}
        own_first = sorted(urls, key=lambda name: name != self._name)
        view = beside.ask_members(self._config, [urls[name] for name in own_first], REQUEST_SECONDS)
        if reason := fencing.obstacle(view.cluster, self._name, leader, view.synchronous, votes):
            self._say(f"{leader.name} is silent; it is not powered off, {reason}")
            return
        # One order for one lease, whatever comes of it: the token stays until it ends.
        token = keys.grant(int(self._settings["timeout"]) + SPARE_SECONDS)
        if not keys.create(TOKEN + leader.lease, f"{self._name} powers {leader.name} off", token):
            keys.revoke(token)
            self._say(f"{leader.name} is silent; another member powers it off, or tried to a moment ago")
            return
        if self._leader(keys) == leader:
            self._fence(leader, keys)

    @staticmethod
    def _leader(keys: Keys) -> fencing.Leader | None:
        found = keys.get(beside.LEADER)
        return fencing.Leader(found.value, found.lease) if found else None

    def _fence(self, leader: fencing.Leader, keys: Keys) -> None:
        """Run the command and end the lease where that is safe."""
        print(f"{leader.name} ({self._address}) is silent: powering it off", flush=True)
        begun = time.monotonic()
        status, said = self._run(leader)
        # Whatever of it answers now was sent after the command had ended.
        answered = status == 0 and answers(self._address, self._settings["ports"], 2 * ANSWER_SECONDS)
        after = patiently(lambda: self._leader(keys), REVOKE_SECONDS)
        if reason := fencing.refusal(status, answered, leader, after):
            print(f"the lease of {leader.name} is not ended: {reason}. {said}".strip(), file=sys.stderr, flush=True)
            return
        with unreachable(self._address):
            # etcd's leader may have died with the host: it is asked again until there is another one.
            patiently(lambda: keys.revoke(leader.lease), REVOKE_SECONDS)
            print(
                f"{leader.name} is off, its lease is ended, {time.monotonic() - begun:.1f} s after the order",
                flush=True,
            )
            self._await_other(leader, keys)

    def _await_other(self, leader: fencing.Leader, keys: Keys) -> None:
        """Wait until somebody else leads, for as long as an election takes."""
        deadline = time.monotonic() + ELECTION_SECONDS
        while (found := patiently(lambda: self._leader(keys), REVOKE_SECONDS)) is None or found == leader:
            if time.monotonic() >= deadline:
                return
            time.sleep(LOOK_SECONDS)

    def _run(self, leader: fencing.Leader) -> tuple[int | None, str]:
        """Return the command's exit status, None where it didn't end in time, and the last thing it said."""
        words = fencing.words_of(self._settings["command"], leader.name, self._address)
        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=self._settings["timeout"],
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None, ""
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        return done.returncode, f"It said: {lines[-1][:200]}" if lines else ""


def main() -> int:
    """Run until told to end."""
    with open(SETTINGS, encoding="utf-8") as stream:
        settings = json.load(stream)
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(0))
    for family in ("-4", "-6"):
        # What a killed one has left.
        routes(family, "route", "flush")
    fence = Fencing(settings)
    said = ""
    while True:
        said = beside.attempted(fence.turn, (EtcdError, PatroniError, OSError), "not done", said)
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
