# SPDX-License-Identifier: Apache-2.0
"""Let a replica of this host take over where one host holds too many of the Valkey cluster's primaries.

After a failover one host may hold a majority of the primaries; when that host dies next, nobody is left to elect. A timer
runs this on every host, without any controller. It acts only in a cluster that has been healthy and unchanged for a while.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.host import respread
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.host.local import (
    LocalServer,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import View, parse_nodes

CONFIG = "/etc/holdfast/valkey-respread.json"
REPLY_SECONDS = 5
TAKEOVER_SECONDS = 30
# The primary pings its replicas every 10 s (repl-ping-replica-period).
LINK_SILENCE_SECONDS = 15
POLL_SECONDS = 0.1


def places(config: dict[str, Any]) -> respread.Places:
    """Return the declared instances."""
    return {
        (node["address"], int(node["port"]) + respread.BUS_OFFSET): respread.Place(
            node["host"], node["zone"], node.get("role", ""), node.get("state", "present") == "present"
        )
        for node in config["nodes"]
    }


def load(path: str) -> respread.Memory:
    """Return what the last look left."""
    try:
        with open(path, encoding="utf-8") as stream:
            return respread.Memory(**json.load(stream))
    except (FileNotFoundError, ValueError, TypeError):
        # The first look since the host started, or a file that a killed look left: begin to count anew.
        return respread.Memory()


def save(path: str, memory: respread.Memory) -> None:
    """Keep memory for the next look."""
    beside = f"{path}.new"
    with open(beside, "w", encoding="utf-8") as stream:
        json.dump({"signature": memory.signature, "since": memory.since}, stream)
    os.replace(beside, path)


def connect(config: dict[str, Any]) -> list[LocalServer]:
    """Return connections to this host's instances that run."""
    found = []
    for path in config["sockets"]:
        try:
            server = LocalServer(path, REPLY_SECONDS)
        except ConnectionRefusedError:
            continue
        server.login(config["username"], [config["password"]])
        found.append(server)
    return found


def view_of(server: LocalServer) -> View:
    """Return the cluster as a server sees it."""
    return parse_nodes(server.call("CLUSTER", "NODES"))


def take_over(server: LocalServer) -> None:
    """Promote a replica without losing a write. Raises Refusal."""
    info = server.info("replication")
    silence = int(info.get("master_last_io_seconds_ago", -1))
    if info.get("master_link_status") != "up" or not 0 <= silence <= LINK_SILENCE_SECONDS:
        raise Refusal("the replica's link to its primary is not up")
    server.call("CLUSTER", "FAILOVER")
    deadline = time.monotonic() + TAKEOVER_SECONDS
    while not view_of(server).myself.is_primary:
        if time.monotonic() > deadline:
            raise Refusal(f"the replica did not take over within {TAKEOVER_SECONDS} s")
        time.sleep(POLL_SECONDS)


def run(config: dict[str, Any], memory_path: str) -> str:
    """Look and act. Returns what was done, empty for nothing. Raises Refusal, OSError."""
    servers = connect(config)
    views = [view_of(server) for server in servers]
    if not servers or len(views) < len(config["sockets"]) or len({view.signature for view in views}) > 1:
        save(memory_path, respread.Memory())
        return ""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    decision = respread.decide(
        views[0], places(config), load(memory_path), replicas=config["replicas"], now=now, quiet=config["quiet"]
    )
    save(memory_path, decision.memory)
    # Only the replica itself knows its marks: a slot on its way waits until it has arrived.
    mine = {view.myself.id: server for view, server in zip(views, servers, strict=True) if not view.myself.marks}
    server = mine.get(decision.promote)
    if server is None:
        return ""
    take_over(server)
    old, new = (views[0].by_id[node] for node in (decision.primary, decision.promote))
    return (
        f"{new.address}:{new.bus_port - respread.BUS_OFFSET} took over from"
        f" {old.address}:{old.bus_port - respread.BUS_OFFSET}, so that primaries are spread"
    )


def main() -> int:
    """Run; return the exit status."""
    with open(sys.argv[1] if len(sys.argv) > 1 else CONFIG, encoding="utf-8") as stream:
        config = json.load(stream)
    try:
        done = run(config, os.path.join(os.environ["RUNTIME_DIRECTORY"], "memory.json"))
    except (Refusal, OSError) as error:
        print(f"primaries were not spread: {error}", file=sys.stderr)
        return 1
    if done:
        print(done)
    return 0


if __name__ == "__main__":
    sys.exit(main())
