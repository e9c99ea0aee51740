# SPDX-License-Identifier: Apache-2.0
"""Wake the other members when this host's Patroni member becomes the leader, and move etcd's leadership off this host.

An etcd leader that dies restarts every lease, so a host that is both PostgreSQL's primary and etcd's leader costs a second ttl
when it is lost. A member that lost the race for the lock may sleep until its next turn before it follows, and commits wait for it:
it is woken. Started as root, by Patroni's callback through a path unit, and by a timer for elections of etcd in between:
etcd 3.5.28 and later let only its root user see and move the leadership.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import yaml
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.client import Client as EtcdClient
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.client import Connection, EtcdError
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni import beside, waking
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.cluster import parse_cluster
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.rest import (
    Client,
    PatroniError,
    UntrustedError,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

PASSWORD = "/etc/holdfast/etcd-root-password"
# What the callback leaves: this host is becoming primary, but Patroni may take a moment to say so itself.
TRIGGER = "/run/postgresql/holdfast-primary"
TRIGGER_SECONDS = 10
REQUEST_SECONDS = 2.0
PAUSE_SECONDS = 0.5


def patroni_at(config: Mapping[str, Any], url: str = "") -> Client:
    """Return a connection to this host's Patroni, or to another member's URL. Raises PatroniError."""
    rest = config["restapi"]
    return Client(url or f"https://{rest['connect_address']}", rest["cafile"], rest["certfile"], REQUEST_SECONDS)


def is_leader(patroni: Client, wait: float) -> bool:
    """Return whether this member of Patroni holds the leader lock, or comes to hold it within wait seconds. Raises PatroniError."""
    deadline = time.monotonic() + wait
    while True:
        try:
            patroni.get("/leader")
            return True
        except UntrustedError:
            raise
        except PatroniError as error:
            # No answer: Patroni is not running, so this host leads nothing.
            if error.status not in (None, 503):
                raise
        if time.monotonic() >= deadline:
            return False
        time.sleep(PAUSE_SECONDS)


def wake_others(config: Mapping[str, Any]) -> None:
    """Wake the other members of Patroni. Raises PatroniError and Refusal where this one does not tell who they are."""
    patroni = patroni_at(config)
    call = waking.call_of(patroni.get("/config"))
    urls = [member.api_url.removesuffix("/patroni") for member in parse_cluster(patroni.get("/cluster")).members]
    waking.wake([patroni_at(config, url) for url in urls if url and url != patroni.url], call)


def etcd_at(host: str, store: Mapping[str, Any], password: str) -> EtcdClient:
    """Return a connection to one member of etcd, as root: each member has tokens of its own. Raises EtcdError."""
    url = f"{store.get('protocol', 'https')}://{host}"
    client = EtcdClient(Connection((url,), store["cacert"], store["cert"], "root", password, REQUEST_SECONDS))
    client.log_in()
    return client


def move(config: Mapping[str, Any], password: str) -> str:
    """Move the leadership if this host has it; return what was done, nothing where there was nothing to do.

    Raises EtcdError, and Refusal where the leadership should move and cannot.
    """
    store = config["etcd3"]
    own_address = beside.address_of(config["restapi"]["connect_address"])
    own = next((host for host in store["hosts"] if beside.address_of(host) == own_address), None)
    if own is None:
        return ""
    member = etcd_at(own, store, password)
    status = member.ask("/v3/maintenance/status")
    if status["leader"] != status["header"]["member_id"]:
        return ""
    reasons = []
    for host in store["hosts"]:
        if host == own:
            continue
        try:
            candidate = etcd_at(host, store, password).ask("/v3/maintenance/status")
        except EtcdError as error:
            reasons.append(str(error))
            continue
        if candidate.get("isLearner"):
            reasons.append(f"{host} is a learner")
            continue
        member.ask("/v3/maintenance/transfer-leadership", {"targetID": candidate["header"]["member_id"]})
        return f"moved etcd's leadership from {own} to {host}"
    raise Refusal("no other member of etcd can lead: " + ("; ".join(reasons) or "there is none"))


def main() -> int:
    """Run; return the exit status."""
    triggered = os.path.lexists(TRIGGER)
    if triggered:
        os.unlink(TRIGGER)
    with open(beside.CONFIG, encoding="utf-8") as stream:
        config = yaml.safe_load(stream)
    try:
        if not is_leader(patroni_at(config), TRIGGER_SECONDS if triggered else 0):
            return 0
        if triggered:
            wake_others(config)
        with open(PASSWORD, encoding="utf-8") as stream:
            done = move(config, stream.read().strip())
    except (EtcdError, PatroniError, Refusal, OSError) as error:
        print(f"etcd's leadership was not moved off this host: {error}", file=sys.stderr)
        return 1
    if done:
        print(done)
    return 0


if __name__ == "__main__":
    sys.exit(main())
