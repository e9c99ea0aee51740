#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that hands the leadership of a Patroni cluster to another member."""

from __future__ import annotations

DOCUMENTATION = r"""
module: patroni_switchover
short_description: Hand the leadership of a Patroni cluster to another member
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Refuses what would lose commits or fail, before anything changes. Chooses the member that takes over, a synchronous standby with the
    least lag, unless O(candidate) names it. Asks Patroni, then watches until that member is a primary that takes writes.
  - Clients see the old primary stop, unless their pools wait; O(pools) pauses these on all balancers at once, right before the request.
    They are resumed by M(holdfast.persistence.pgbouncer_pool) with V(state=armed) on each balancer, which must be at work;
    where Patroni refuses, they are resumed by this module.
  - What Patroni answers is not trusted, as it reports a failure when it is only slow; the cluster is read again until O(wait) is over.
options:
  candidate:
    description: Name of the member that shall lead. Chosen where empty. When it leads already nothing is done.
    type: str
    default: ""
  maximum_lag:
    description: How far behind the leader the member may be, in bytes.
    type: int
    default: 1048576
  other_zone:
    description: Whether the new leader has to be in another zone than the old one, by O(zones).
    type: bool
    default: false
  zones:
    description: Zone of each member by its name.
    type: dict
    default: {}
  prepare:
    description:
      - Only check, choose, and shorten the stop of the old primary by a CHECKPOINT, repeated up to three times until one takes less than a
        second. Must run on the leader's host then, as root or postgres.
    type: bool
    default: false
  socket_dir:
    description: Directory of PostgreSQL's Unix socket on this host, for O(prepare).
    type: path
    default: /var/run/postgresql
  port:
    description: PostgreSQL's port on this host, for O(prepare).
    type: int
    default: 5432
  pools:
    description: The PgBouncers to pause, if any.
    type: dict
    suboptions:
      hosts:
        description: Addresses by name of the balancers.
        type: dict
        required: true
      port:
        description: PgBouncer's port.
        type: int
        default: 6432
      user:
        description: User, one of PgBouncer's C(admin_users).
        type: str
        default: pgbouncer
      password:
        description: Its password.
        type: str
        required: true
      pause_timeout:
        description: How long transactions may last until the pause is given up and nothing is switched, in seconds.
        type: float
        default: 5
  wait:
    description: How long the whole switchover may take, in seconds.
    type: float
    default: 30
extends_documentation_fragment:
  - holdfast.persistence.patroni
attributes:
  check_mode:
    description: Checks and chooses, and says who would lead.
    support: full
  diff_mode:
    description: Shows the leader before and after.
    support: full
"""

EXAMPLES = r"""
- name: Switch to the best standby
  holdfast.persistence.patroni_switchover:
    url: https://192.0.2.11:8008
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/postgresql.pem

- name: Let node2 lead, if it is in another room
  holdfast.persistence.patroni_switchover:
    url: https://192.0.2.11:8008
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/postgresql.pem
    candidate: node2
    other_zone: true
    zones: {node1: east, node2: west}
"""

RETURN = r"""
previous_leader:
  description: Who led when the module began.
  type: str
  returned: success
  sample: node1
leader:
  description: Who leads now; in check mode and with O(prepare) who would.
  type: str
  returned: success
  sample: node2
unfit:
  description: Why each other member was not chosen, where it could not be.
  type: dict
  returned: success
  sample: {node3: "lags 73400320 bytes, allowed are 1048576"}
checkpoints:
  description: How long each CHECKPOINT took, in seconds.
  type: list
  elements: float
  returned: success
  sample: [0.21, 0.02]
seconds:
  description: From the request until the new leader took writes, in seconds.
  type: float
  returned: success
  sample: 1.3
pause_took:
  description: How long each balancer's last transaction took to end, in seconds.
  type: dict
  returned: success
  sample: {node1: 0.01, node2: 0.02}
answer:
  description: What Patroni answered in that time, often nothing yet.
  type: str
  returned: success
  sample: 'Successfully switched over to "node2"'
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni import waking
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.cluster import (
    Cluster,
    parse_cluster,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.connection import argument_spec, client_of
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.rest import Client, PatroniError
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.switchover import (
    Plan,
    Wish,
    plan,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.hold import leads
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.remote import Pools
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.reader import (
    find_driver,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal, Refusals

LOOK_SECONDS = 0.1
CHECKPOINTS = 3
SHORT_SECONDS = 1.0


class Waker(threading.Thread):
    """Wakes the members that neither lead nor led: one that sleeps until its next turn would keep commits waiting."""

    def __init__(self, module: AnsibleModule, cluster: Cluster, chosen: Plan, call: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self._clients = [
            client_of(module.params, member.api_url.removesuffix("/patroni"))
            for member in cluster.members
            if member.name not in (chosen.leader, chosen.candidate) and member.api_url
        ]
        self._call = call

    def run(self) -> None:
        """Wake them."""
        waking.wake(self._clients, self._call)


class Request(threading.Thread):
    """POST /switchover on the side: its answer comes up to a second after the fact. error and answer tell what came of it."""

    def __init__(self, client: Client, chosen: Plan, timeout: float) -> None:
        super().__init__(daemon=True)
        self._client, self._timeout = client, timeout
        self._body = {"leader": chosen.leader, "candidate": chosen.candidate}
        self.answer = ""
        self.error: PatroniError | None = None

    def run(self) -> None:
        """Ask."""
        try:
            self.answer = self._client.post("/switchover", self._body, self._timeout)
        except PatroniError as error:
            self.error = error

    @property
    def refused(self) -> PatroniError | None:
        """The error where Patroni refused; where it gave up waiting, or did not answer, the switchover may still succeed."""
        return self.error if self.error and self.error.status not in (None, 503) else None


def wish_of(params: dict[str, Any], client: Client) -> Wish:
    """Return what is asked for. Raises PatroniError."""
    mode = client.get("/config").get("synchronous_mode", False)
    return Wish(
        candidate=params["candidate"],
        maximum_lag=params["maximum_lag"],
        synchronous=str(mode).lower() not in ("false", "off", "no", "0", "none"),
        other_zone=params["other_zone"],
        zones=params["zones"],
    )


def checkpoint(socket_dir: str, port: int, leader: str) -> list[float]:
    """Let the primary of this host write its dirty pages; return how long each time took, in seconds. Raises Refusal."""
    driver = find_driver()
    taken: list[float] = []
    try:
        connection = driver.connect(host=socket_dir, port=port, user="postgres", dbname="postgres", connect_timeout=5)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_is_in_recovery()")
                if cursor.fetchone()[0]:
                    raise Refusal(f"PostgreSQL of this host is a replica: run this on {leader}. Nothing was changed")
                while len(taken) < CHECKPOINTS and (not taken or taken[-1] > SHORT_SECONDS):
                    begun = time.monotonic()
                    cursor.execute("CHECKPOINT")
                    taken.append(round(time.monotonic() - begun, 3))
        finally:
            connection.close()
    except driver.Error as error:
        raise Refusal(f"CHECKPOINT on {leader} failed: {' '.join(str(error).split())}") from error
    return taken


def takes_writes(client: Client) -> bool:
    """Return whether that member leads and its PostgreSQL is out of recovery."""
    try:
        return leads(client.get("/primary"))
    except PatroniError:
        return False


def holds_lock(client: Client) -> bool:
    """Return whether that member has the leader lock, as it does before its PostgreSQL is out of recovery."""
    try:
        client.get("/leader")
    except PatroniError:
        return False
    return True


def pools_of(params: dict[str, Any]) -> Pools | None:
    """Return connections to the pools to pause. Raises Refusal."""
    wish = params["pools"]
    if not wish:
        return None
    access = {
        "port": wish["port"],
        "user": wish["user"],
        "password": wish["password"],
        "connect_timeout": max(2, int(params["timeout"])),
        "sslmode": "verify-full",
        "sslrootcert": params["ca_cert"],
        "sslcert": params["client_cert"],
        "sslkey": params["client_cert"],
    }
    driver = find_driver()
    with unpaused():
        return Pools(driver, wish["hosts"], access)


@contextlib.contextmanager
def unpaused() -> Iterator[None]:
    """Say of a refusal in the block that clients were not held."""
    try:
        yield
    except Refusal as error:
        raise Refusal(f"No switchover; the pools serve again: {error}.") from error


def switch_paused(module: AnsibleModule, client: Client, cluster: Cluster, chosen: Plan) -> dict[str, Any]:
    """Pause the pools, if any, and switch; where that fails, resume them. Raises what switch() raises."""
    pools = pools_of(module.params)
    if pools is None:
        return switch(module, client, cluster, chosen)
    with unpaused():
        took = pools.pause(module.params["pools"]["pause_timeout"])
    try:
        return {**switch(module, client, cluster, chosen), "pause_took": took}
    except (Refusal, PatroniError):
        # Each host resumes its pools anyway; what went wrong with the switchover is the news.
        with contextlib.suppress(Refusal):
            pools.resume()
        raise


def switch(module: AnsibleModule, client: Client, cluster: Cluster, chosen: Plan) -> dict[str, Any]:
    """Ask Patroni and watch; return seconds and answer. Raises Refusal and PatroniError."""
    candidate = cluster.member(chosen.candidate)
    base = candidate.api_url if candidate else ""
    new = client_of(module.params, base.removesuffix("/patroni"))
    waker: Waker | None = Waker(module, cluster, chosen, waking.call_of(client.get("/config")))
    begun = time.monotonic()
    request = Request(client, chosen, module.params["wait"])
    request.start()
    while not takes_writes(new):
        if waker and holds_lock(new):
            waker.start()
            waker = None
        if request.refused is not None:
            raise Refusal(f"Patroni refused: {request.refused}. {chosen.leader} still leads")
        if time.monotonic() - begun > module.params["wait"]:
            raise Refusal(missed(client, chosen, module.params["wait"], request))
        time.sleep(LOOK_SECONDS)
    if waker:
        waker.start()
    return {"seconds": round(time.monotonic() - begun, 3), "answer": request.answer}


def missed(client: Client, chosen: Plan, wait: float, request: Request) -> str:
    """Return what to say when the candidate doesn't lead in time. Raises PatroniError and Refusal."""
    now = parse_cluster(client.get("/cluster")).leader
    said = request.answer or (str(request.error) if request.error else "nothing")
    who = f"{now.name} leads now" if now else "nobody leads now"
    return (
        f"{chosen.candidate} does not lead after {wait:g} s, {who}; Patroni answered: {said}. "
        "Look at the journals (journalctl -u patroni) of both, then run again"
    )


def run(module: AnsibleModule) -> dict[str, Any]:
    """Read, plan, act, verify; return the result of the module."""
    client = client_of(module.params)
    cluster = parse_cluster(client.get("/cluster"))
    chosen = plan(cluster, wish_of(module.params, client))
    result: dict[str, Any] = {
        "changed": False,
        "previous_leader": chosen.leader,
        "leader": chosen.candidate,
        "unfit": dict(chosen.unfit),
        "checkpoints": [],
        "seconds": 0.0,
        "pause_took": {},
        "answer": "",
    }
    if not chosen.changes:
        return result
    if module.params["prepare"]:
        if not module.check_mode:
            result["checkpoints"] = checkpoint(module.params["socket_dir"], module.params["port"], chosen.leader)
        return result
    if not module.check_mode:
        result.update(switch_paused(module, client, cluster, chosen))
    result["changed"] = True
    result["diff"] = {"before": f"leader {chosen.leader}\n", "after": f"leader {chosen.candidate}\n"}
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=argument_spec(
            candidate={"type": "str", "default": ""},
            maximum_lag={"type": "int", "default": 1048576},
            other_zone={"type": "bool", "default": False},
            zones={"type": "dict", "default": {}},
            prepare={"type": "bool", "default": False},
            socket_dir={"type": "path", "default": "/var/run/postgresql"},
            port={"type": "int", "default": 5432},
            pools={
                "type": "dict",
                "options": {
                    "hosts": {"type": "dict", "required": True},
                    "port": {"type": "int", "default": 6432},
                    "user": {"type": "str", "default": "pgbouncer"},
                    "password": {"type": "str", "required": True, "no_log": True},
                    "pause_timeout": {"type": "float", "default": 5},
                },
            },
            wait={"type": "float", "default": 30},
        ),
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except Refusals as error:
        module.fail_json(msg=f"No switchover, nothing was changed: {error}.", problems=list(error.problems))
    except (Refusal, PatroniError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
