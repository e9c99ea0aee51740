# SPDX-License-Identifier: Apache-2.0
"""Hold the pools of this host's PgBouncer for a bounded time, for a switchover.

Pauses, or waits armed until somebody else pauses, says so to systemd, then looks until the members of Patroni and this host's
HAProxy agree on a new primary, and resumes.
It resumes without one when the time is over, when it is asked to stop, and when it cannot continue: nobody else has to be alive.
`pgbouncer-hold --release` resumes what a hold paused; systemd runs it after the hold, however that ended.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.haproxy.runtime import ask
from ansible_collections.holdfast.persistence.plugins.module_utils.haproxy.stats import parse_stats, routes
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.rest import Client, PatroniError
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.hold import Step, leads, next_step
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.local import connect, is_paused, resume_all
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.pause import (
    pause_all,
    paused,
    resume_single,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.pools import parse_pools
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

FOLDER = "/run/holdfast"
CONFIG = f"{FOLDER}/pgbouncer-hold.json"
REPORT = f"{FOLDER}/pgbouncer-hold-report.json"
# There while a pause is this program's: the pause of somebody else is not lifted, and the databases in it were paused before.
MARK = f"{FOLDER}/pgbouncer-hold-paused"
LOOK_SECONDS = 0.1
ARMED_LOOK_SECONDS = 0.05
ANSWER_SECONDS = 2.0

stopping = threading.Event()


def stop(_signal: int, _frame: FrameType | None) -> None:
    """Handle SIGTERM."""
    stopping.set()


def write(path: str, value: Any) -> None:
    """Replace a file of the folder."""
    beside = f"{path}.new"
    with open(beside, "w", encoding="utf-8") as stream:
        json.dump(value, stream)
    os.replace(beside, path)


def ready() -> None:
    """Tell systemd that the pools are paused (man 3 sd_notify)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect(address.replace("@", "\0", 1))
            notify.sendall(b"READY=1")


class Pools:
    """PgBouncer of this host. Raises Refusal."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._socket, self._user = config["socket"], config["user"]

    def paused(self) -> bool | None:
        """Return whether the pools are paused; None where PgBouncer can't tell: then a pause is refused by itself."""
        with connect(self._socket, self._user, ANSWER_SECONDS) as console:
            return is_paused(console)

    def single(self) -> list[str]:
        """Return the databases that are paused by themselves."""
        with connect(self._socket, self._user, ANSWER_SECONDS) as console:
            return sorted(paused(console.rows("SHOW DATABASES")))

    def pause(self, seconds: float) -> None:
        """Pause; raises Refusal when transactions or logins last longer than that. Sessions are ended when they have not."""
        deadline = time.monotonic() + seconds
        with connect(self._socket, self._user, seconds) as console:

            def ask(command: str) -> list[dict[str, str | None]]:
                console.limit(max(LOOK_SECONDS, deadline - time.monotonic()))
                return console.rows(command)

            if ended := pause_all(ask, Refusal):
                print(f"ended the sessions of {', '.join(ended)}")

    def wait_paused(self, deadline: float) -> bool:
        """Wait until somebody pauses; return whether somebody did, or may have where PgBouncer can't tell."""
        with connect(self._socket, self._user, ANSWER_SECONDS) as console:
            while not stopping.is_set() and time.monotonic() < deadline:
                if is_paused(console) is not False:
                    return True
                stopping.wait(ARMED_LOOK_SECONDS)
        return False

    def resume(self, before: list[str]) -> bool:
        """Resume, but for databases that were paused by themselves before; return whether there was something to resume."""
        with connect(self._socket, self._user, ANSWER_SECONDS) as console:
            single = resume_single(console.rows, before, Refusal)
            return resume_all(console) or bool(single)

    def busy(self) -> str:
        """Return which pools still work for a client."""
        with connect(self._socket, self._user, ANSWER_SECONDS) as console:
            pools = parse_pools(console.rows("SHOW POOLS"))
        busy = [
            f"{pool['database']}/{pool['user']}: {pool['servers_active']}"
            for pool in pools
            if pool["servers_active"] and pool["mode"] != "session"
        ]
        return ", ".join(busy) or "none"


class Watch:
    """Looks who leads and where this host's HAProxy sends connections."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._old = config["leader"]
        self._haproxy, self._backend = config["haproxy_socket"], config["backend"]
        self._clients = {
            name: Client(url, config["ca_cert"], config["client_cert"], ANSWER_SECONDS)
            for name, url in config["members"].items()
        }
        self._candidates = [config["candidate"]] if config["candidate"] else sorted(set(self._clients) - {self._old})
        self._workers = ThreadPoolExecutor(max_workers=len(self._clients))

    def _leads(self, name: str) -> bool:
        try:
            return leads(self._clients[name].get("/primary"))
        except PatroniError:
            # It says that it is not a primary, or says nothing.
            return False

    def look(self) -> Step:
        """Return the next step.

        The old leader is not asked: it gave the lock away after its PostgreSQL had ended, and while it ends it answers late.
        """
        answers = list(self._workers.map(self._leads, self._candidates))
        found = [name for name, does in zip(self._candidates, answers, strict=True) if does]
        if not found:
            return Step()
        return next_step(self._old, found, self._routes())

    def _routes(self) -> list[str]:
        try:
            return routes(parse_stats(ask(self._haproxy, "show stat", ANSWER_SECONDS)), self._backend)
        except (OSError, Refusal) as error:
            print(f"HAProxy does not tell its servers: {error}", file=sys.stderr)
            return []

    def tell(self, step: Step) -> None:
        """Tell HAProxy what its next checks would find."""
        commands = [f"set server {self._backend}/{step.up} health up"] if step.up else []
        commands += [f"set server {self._backend}/{name} health down" for name in step.down]
        try:
            for command in commands:
                if answer := ask(self._haproxy, command, ANSWER_SECONDS).strip():
                    print(f"HAProxy, {command}: {answer}", file=sys.stderr)
        except OSError as error:
            print(f"HAProxy does not take commands, its checks will find out: {error}", file=sys.stderr)


def wait(watch: Watch | None, deadline: float) -> str:
    """Wait until the pools can continue; return why."""
    told = False
    while not stopping.is_set():
        if time.monotonic() >= deadline:
            return "the time was over"
        step = watch.look() if watch else Step()
        if step.resume:
            return "new primary"
        if watch and (step.up or step.down) and not told:
            watch.tell(step)
            told = True
            continue
        stopping.wait(LOOK_SECONDS)
    return "asked to"


def begin(pools: Pools, config: dict[str, Any], report: dict[str, Any]) -> float | None:
    """Pause, or wait until somebody does; return when it began, None where nobody did. Raises Refusal."""
    begun = time.monotonic()
    if config["arm"] > 0:
        report["state"] = "armed"
        write(REPORT, report)
        ready()
        return time.monotonic() if pools.wait_paused(begun + config["arm"]) else None
    try:
        pools.pause(config["pause_timeout"])
    except Refusal as error:
        raise Refusal(
            f"not paused within {config['pause_timeout']:g} s, connections still at work: {pools.busy()} ({error})"
        ) from error
    report.update(state="paused", pause_took=round(time.monotonic() - begun, 3))
    write(REPORT, report)
    ready()
    return begun


def hold(config: dict[str, Any], report: dict[str, Any]) -> None:
    """Pause, wait, resume; keep the report. Raises Refusal and PatroniError."""
    pools = Pools(config)
    watch = Watch(config) if config["leader"] else None
    if pools.paused():
        raise Refusal("the pools are paused already, by somebody else (RESUME on the console, or pgbouncer_pool)")
    before = pools.single()
    write(MARK, before)
    begun: float | None = None
    try:
        begun = begin(pools, config, report)
        if begun is None:
            report["reason"] = "nobody paused"
            return
        report["reason"] = wait(watch, begun + config["hold"])
    finally:
        pools.resume(before)
        os.unlink(MARK)
        report["seconds"] = round(time.monotonic() - begun, 3) if begun is not None else 0.0
    report["state"] = "resumed"


def release() -> int:
    """Resume what a hold left paused; return the exit status."""
    if not os.path.exists(MARK):
        return 0
    with open(CONFIG, encoding="utf-8") as config, open(MARK, encoding="utf-8") as mark:
        pools, before = Pools(json.load(config)), json.load(mark)
    try:
        if pools.resume(before):
            print("resumed the pools that a hold had left paused")
    except Refusal as error:
        print(f"the pools could not be resumed: {error}", file=sys.stderr)
        return 1
    os.unlink(MARK)
    return 0


def main() -> int:
    """Run; return the exit status."""
    if sys.argv[1:] == ["--release"]:
        return release()
    signal.signal(signal.SIGTERM, stop)
    with open(CONFIG, encoding="utf-8") as stream:
        config = json.load(stream)
    report: dict[str, Any] = {"run": config["run"], "state": "refused", "reason": "", "seconds": 0.0, "pause_took": 0.0}
    status = 0
    try:
        hold(config, report)
    except (Refusal, PatroniError) as error:
        report.update(state="refused", reason=str(error))
        status = 1
    write(REPORT, report)
    print(f"{report['state']} after {report['seconds']} s: {report['reason']}")
    return status


if __name__ == "__main__":
    sys.exit(main())
