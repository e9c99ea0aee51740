# SPDX-License-Identifier: Apache-2.0
"""Let this host's replica stream from a new leader as soon as that has the lock.

A member of Patroni that looks while nobody has the lock sleeps two seconds before it looks again (process_unhealthy_cluster of
3.0 to 4.1), and commits that wait for a replica wait with it. What is written here is what Patroni writes then; should it want
something else, it puts that right at its next turn.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import yaml
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.client import EtcdError
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.keys import Entry, Keys
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni import beside
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.follow import (
    opened_for,
    passfile_of,
    pointed_at,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

SETTINGS = "/etc/holdfast/patroni-follow.json"
REQUEST_SECONDS = 2.0
# A leader key is written when another member takes it. After so much silence the watch is begun anew.
IDLE_SECONDS = 30.0
REST_SECONDS = 2.0
# Another source than the leader was declared for this member.
OWN_WAY = ("replicatefrom", "nostream")


def stream_from(server: Mapping[str, Any], host: str, port: int) -> bool:
    """Point this host's server to another primary; return whether that was to be done. Raises Refusal and OSError.

    Parameters: server, host (the folder of its socket) and port; host and port of the primary.
    """
    try:
        connection = psycopg2.connect(**server, user="postgres", dbname="postgres", connect_timeout=2)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_setting('data_directory'), pg_is_in_recovery()")
                directory, is_replica = cursor.fetchone()
                if not is_replica or not rewrite(os.path.join(directory, "postgresql.conf"), host, port):
                    return False
                cursor.execute("SELECT pg_reload_conf()")
        finally:
            connection.close()
    except psycopg2.Error as error:
        raise Refusal(" ".join(str(error).split())) from error
    return True


def rewrite(path: str, host: str, port: int) -> bool:
    """Name the primary in postgresql.conf and its password file; return whether another one was there."""
    with open(path, encoding="utf-8") as stream:
        found = stream.read()
    wanted = pointed_at(found, host, port)
    if wanted == found:
        return False
    passfile = passfile_of(found)
    if passfile:
        with open(passfile, encoding="utf-8") as stream:
            replace(passfile, opened_for(stream.read(), host, port))
    replace(path, wanted)
    return True


def replace(path: str, text: str) -> None:
    """Replace a file that only its owner reads."""
    beside_it = f"{path}.holdfast"
    with open(os.open(beside_it, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(beside_it, path)


class Follower:
    """Watches the leader key. Raises OSError and EtcdError, after which it is watched anew."""

    def __init__(self, server: Mapping[str, Any]) -> None:
        self._server = server
        self._config: dict[str, Any] = {}
        self._keys: Keys | None = None
        # Who led last; empty until one is known.
        self._leader = ""

    def watch(self) -> None:
        """See who leads and follow each one that comes after it, until nothing has been heard for a while."""
        try:
            if self._keys is None:
                # Certificates and passwords may be others than the last time.
                with open(beside.CONFIG, encoding="utf-8") as stream:
                    self._config = yaml.safe_load(stream)
                self._keys = beside.keys_of(self._config, REQUEST_SECONDS)
            with self._keys.watching(beside.LEADER, IDLE_SECONDS) as changes:
                self._see(self._keys, self._keys.get(beside.LEADER))
                for found in changes:
                    self._see(self._keys, found)
        except EtcdError:
            self._keys = None
            raise

    def _see(self, keys: Keys, found: Entry | None) -> None:
        if found is None or found.value == self._leader:
            return
        known, self._leader = self._leader, found.value
        own_way = [tag for tag in OWN_WAY if self._config.get("tags", {}).get(tag)]
        if not known or found.value == self._config["name"] or own_way:
            return
        member = keys.get(beside.MEMBERS + found.value)
        if member is None:
            return
        where = urlsplit(json.loads(member.value)["conn_url"])
        try:
            if stream_from(self._server, str(where.hostname), where.port or 5432):
                print(f"{found.value} has the lock: streaming from it", flush=True)
        except Refusal as error:
            print(f"{found.value} has the lock; this host's server is left to Patroni: {error}", flush=True)


def main() -> int:
    """Run until told to end."""
    with open(SETTINGS, encoding="utf-8") as stream:
        server = json.load(stream)
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(0))
    follower = Follower(server)
    said = ""
    while True:
        said = beside.attempted(follower.watch, (EtcdError, OSError), "not watched", said)
        if said:
            # etcd, or the way to it, needs a moment.
            time.sleep(REST_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
