"""Wake the other members when this host's Patroni member becomes the leader, and move etcd's leadership off this host.

An etcd leader that dies restarts every lease, so a host that is both PostgreSQL's primary and etcd's leader costs a second ttl
when it is lost. A member that lost the race for the lock may sleep until its next turn before it follows, and commits wait for it:
it is woken. Started as root, by Patroni's callback through a path unit, and by a timer for elections of etcd in between:
etcd 3.5.28 and later let only its root user see and move the leadership.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import yaml

CONFIG = "/etc/patroni/config.yml"
PASSWORD = "/etc/holdfast/etcd-root-password"
# What the callback leaves: this host is becoming primary, but Patroni may take a moment to say so itself.
TRIGGER = "/run/postgresql/holdfast-primary"
TRIGGER_SECONDS = 10
REQUEST_SECONDS = 2
PAUSE_SECONDS = 0.5


def opener(ca_file: str, client_file: str) -> urllib.request.OpenerDirector:
    """Return what opens HTTPS with a client certificate, without the environment's proxies."""
    context = ssl.create_default_context(cafile=ca_file)
    context.load_cert_chain(client_file)
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))


def is_leader(rest: dict, wait: float) -> bool:
    """Return whether this member of Patroni holds the leader lock, or comes to hold it within wait seconds."""
    https = opener(rest["cafile"], rest["certfile"])
    deadline = time.monotonic() + wait
    while True:
        try:
            with https.open(f"https://{rest['connect_address']}/leader", timeout=REQUEST_SECONDS):
                return True
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
        except OSError:
            # Patroni is not running, so this host leads nothing.
            pass
        if time.monotonic() >= deadline:
            return False
        time.sleep(PAUSE_SECONDS)


def wake(rest: dict) -> None:
    """Wake the other members of Patroni: what changes nothing in the configuration does that. Raises OSError."""
    https = opener(rest["cafile"], rest["certfile"])
    own = f"https://{rest['connect_address']}"
    with https.open(f"{own}/config", timeout=REQUEST_SECONDS) as response:
        loop_wait = json.load(response).get("loop_wait")
    with https.open(f"{own}/cluster", timeout=REQUEST_SECONDS) as response:
        members = json.load(response)["members"]
    urls = [member["api_url"].removesuffix("/patroni") for member in members if member.get("api_url")]
    if loop_wait is None:
        return
    body = json.dumps({"loop_wait": loop_wait}).encode()

    def poke(url: str) -> None:
        request = urllib.request.Request(f"{url}/config", data=body, method="PATCH")
        # A member that is down, as the old leader may be, needs no waking.
        with contextlib.suppress(OSError), https.open(request, timeout=REQUEST_SECONDS):
            pass

    others = [url for url in urls if url != own]
    if others:
        with ThreadPoolExecutor(max_workers=len(others)) as workers:
            list(workers.map(poke, others))


class Member:
    """One etcd member, reached through its JSON gateway (https://etcd.io/docs/v3.5/dev-guide/api_grpc_gateway/)."""

    def __init__(self, host: str, https: urllib.request.OpenerDirector) -> None:
        self.host = host
        self._https = https
        self._token = ""

    def call(self, path: str, body: dict[str, str]) -> dict:
        """Return the answer. Raises OSError."""
        request = urllib.request.Request(f"https://{self.host}/v3/{path}", data=json.dumps(body).encode())
        if self._token:
            request.add_header("Authorization", self._token)
        with self._https.open(request, timeout=REQUEST_SECONDS) as response:
            return json.load(response)

    def status(self, password: str) -> dict:
        """Log in (each member has tokens of its own) and return what the member says of itself. Raises OSError."""
        self._token = self.call("auth/authenticate", {"name": "root", "password": password})["token"]
        return self.call("maintenance/status", {})


def address_of(host: str) -> str:
    """Return the address of HOST:PORT without brackets."""
    return host.rpartition(":")[0].strip("[]")


def move(config: dict, password: str) -> str:
    """Move the leadership if this host has it; return what was done, nothing where there was nothing to do.

    Raises OSError where it should move and cannot.
    """
    store = config["etcd3"]
    https = opener(store["cacert"], store["cert"])
    own_address = address_of(config["restapi"]["connect_address"])
    own = [host for host in store["hosts"] if address_of(host) == own_address]
    if not own:
        return ""
    member = Member(own[0], https)
    status = member.status(password)
    if status["leader"] != status["header"]["member_id"]:
        return ""
    reasons = []
    for host in store["hosts"]:
        if host == own[0]:
            continue
        try:
            candidate = Member(host, https).status(password)
        except OSError as error:
            reasons.append(f"{host}: {error}")
            continue
        if candidate.get("isLearner"):
            reasons.append(f"{host} is a learner")
            continue
        member.call("maintenance/transfer-leadership", {"targetID": candidate["header"]["member_id"]})
        return f"moved etcd's leadership from {own[0]} to {host}"
    raise OSError("no other member of etcd can lead: " + ("; ".join(reasons) or "there is none"))


def main() -> int:
    """Run; return the exit status."""
    triggered = os.path.lexists(TRIGGER)
    if triggered:
        os.unlink(TRIGGER)
    with open(CONFIG, encoding="utf-8") as stream:
        config = yaml.safe_load(stream)
    try:
        if not is_leader(config["restapi"], TRIGGER_SECONDS if triggered else 0):
            return 0
        if triggered:
            wake(config["restapi"])
        with open(PASSWORD, encoding="utf-8") as stream:
            done = move(config, stream.read().strip())
    except OSError as error:
        print(f"etcd's leadership was not moved off this host: {error}", file=sys.stderr)
        return 1
    if done:
        print(done)
    return 0


if __name__ == "__main__":
    sys.exit(main())
