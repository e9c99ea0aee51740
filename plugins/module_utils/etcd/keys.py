# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Keys and leases of etcd below one prefix, for programs that run beside Patroni.

Protocol: https://etcd.io/docs/v3.5/dev-guide/api_reference_v3/ . Lease numbers are kept as the text that the gateway uses.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.access import encode, prefix
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.client import Client, EtcdError

NOT_FOUND = "requested lease not found"


@dataclass(frozen=True)
class Entry:
    """What a key holds. lease: number of the lease that it ends with, empty if none."""

    value: str
    lease: str = ""


def parse_entry(found: Mapping[str, Any]) -> tuple[str, Entry]:
    """Return key and entry of one of the gateway's `kvs`."""
    key = base64.b64decode(found["key"]).decode()
    lease = str(found.get("lease", ""))
    value = base64.b64decode(found.get("value", "")).decode(errors="replace")
    return key, Entry(value, "" if lease == "0" else lease)


def parse_event(event: Mapping[str, Any]) -> Entry | None:
    """Return what a key holds after one of a watch's `events`, None where it was deleted. A put's type is the default, so left out."""
    return None if event.get("type") == "DELETE" else parse_entry(event["kv"])[1]


def put_body(key: str, value: str, lease: str) -> dict[str, Any]:
    """Return a put; lease may be empty."""
    body = {"key": encode(key.encode()), "value": encode(value.encode())}
    return {**body, "lease": lease} if lease else body


def create_body(key: str, value: str, lease: str) -> dict[str, Any]:
    """Return a transaction that puts the key only where it does not exist."""
    return {
        "compare": [{"key": encode(key.encode()), "target": "CREATE", "result": "EQUAL", "create_revision": "0"}],
        "success": [{"request_put": put_body(key, value, lease)}],
    }


class Keys:
    """Keys below a prefix such as /service/NAME/. Every method raises EtcdError."""

    def __init__(self, client: Client, root: str) -> None:
        self._client, self._root = client, root

    def get(self, name: str) -> Entry | None:
        """Return what a key holds, None where it does not exist."""
        answer = self._client.ask("/v3/kv/range", {"key": encode((self._root + name).encode())})
        return next((parse_entry(found)[1] for found in answer.get("kvs", [])), None)

    def list(self, name: str) -> dict[str, Entry]:
        """Return the keys that begin with name, by what follows it."""
        span = prefix(self._root + name, "read")
        answer = self._client.ask("/v3/kv/range", {"key": span.key, "range_end": span.range_end})
        entries = (parse_entry(found) for found in answer.get("kvs", []))
        return {key.removeprefix(self._root + name): entry for key, entry in entries}

    @contextlib.contextmanager
    def watching(self, name: str, idle: float) -> Iterator[Iterator[Entry | None]]:
        """Give what a key holds from now on, each time it is written: None where it was deleted.

        The iterator ends when nothing was written for `idle` seconds; whoever continues reads the key after the next watch has begun.
        """
        body = {"create_request": {"key": encode((self._root + name).encode())}}
        with self._client.stream("/v3/watch", body, idle) as results:
            # The first one says that the watch stands.
            if not next(results, {}).get("created"):
                raise EtcdError(name, "etcd does not watch this key")
            yield (found for result in results for found in map(parse_event, result.get("events", [])))

    def put(self, name: str, value: str, lease: str = "") -> None:
        """Write a key."""
        self._client.ask("/v3/kv/put", put_body(self._root + name, value, lease))

    def create(self, name: str, value: str, lease: str = "") -> bool:
        """Write a key that does not exist; return whether that was so."""
        return bool(self._client.ask("/v3/kv/txn", create_body(self._root + name, value, lease)).get("succeeded"))

    def delete(self, name: str) -> None:
        """Delete a key, if it is there."""
        self._client.ask("/v3/kv/deleterange", {"key": encode((self._root + name).encode())})

    def grant(self, seconds: int) -> str:
        """Return a new lease."""
        return str(self._client.ask("/v3/lease/grant", {"TTL": str(seconds)})["ID"])

    def renew(self, lease: str) -> bool:
        """Begin a lease's time anew; return whether it still existed."""
        answer = self._client.ask("/v3/lease/keepalive", {"ID": lease})
        return int(answer.get("result", {}).get("TTL", 0)) > 0

    def revoke(self, lease: str) -> None:
        """End a lease, and every key that hangs on it; one that has ended already is no error."""
        try:
            self._client.ask("/v3/lease/revoke", {"ID": lease})
        except EtcdError as error:
            if NOT_FOUND not in error.message:
                raise
