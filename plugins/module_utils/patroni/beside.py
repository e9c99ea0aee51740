# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What programs on PostgreSQL's hosts share: Patroni's own configuration, its store, and the other members' REST API."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.client import Client as EtcdClient
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.client import Connection
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.keys import Keys
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.cluster import (
    Cluster,
    parse_cluster,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.rest import Client, PatroniError
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

CONFIG = "/etc/patroni/config.yml"
LEADER = "leader"
MEMBERS = "members/"


@dataclass(frozen=True)
class View:
    """The cluster as a member sees it, and whether it commits synchronously."""

    cluster: Cluster
    synchronous: bool


def attempted(act: Callable[[], None], errors: tuple[type[Exception], ...], words: str, said: str) -> str:
    """Do something; return what went wrong, empty where nothing did.

    Parameters: errors that may come and are told on standard error after `words`; said, what the last attempt returned: only news is told.
    """
    try:
        act()
    except errors as error:
        found = str(error) or type(error).__name__
        if found != said:
            sys.stderr.write(f"{words}: {found}\n")
            sys.stderr.flush()
        return found
    return ""


def keys_of(config: Mapping[str, Any], timeout: float) -> Keys:
    """Return Patroni's keys in etcd, by its own account; the member on this host is asked first. Raises EtcdError."""
    store = config["etcd3"]
    own = address_of(config["restapi"]["connect_address"])
    hosts = sorted(store["hosts"], key=lambda host: address_of(host) != own)
    client = EtcdClient(
        Connection(
            tuple(f"{store.get('protocol', 'https')}://{host}" for host in hosts),
            store["cacert"],
            store["cert"],
            store["username"],
            store["password"],
            timeout,
        )
    )
    client.log_in()
    return Keys(client, f"{config['namespace'].rstrip('/')}/{config['scope']}/")


def address_of(host: str) -> str:
    """Return HOST:PORT without its port."""
    return host.rpartition(":")[0]


def api_urls(keys: Keys) -> dict[str, str]:
    """Return where each member's REST API is. Raises EtcdError."""
    found = {name: json.loads(entry.value) for name, entry in keys.list(MEMBERS).items()}
    return {name: member.get("api_url", "").removesuffix("/patroni") for name, member in sorted(found.items())}


def is_synchronous(configuration: Mapping[str, Any]) -> bool:
    """Return whether a dynamic configuration makes commits wait for a replica."""
    return str(configuration.get("synchronous_mode", False)).lower() not in ("false", "off", "no", "0", "none")


def ask_members(config: Mapping[str, Any], urls: Iterable[str], timeout: float) -> View:
    """Return how the first member that answers sees the cluster. Raises PatroniError with what the last one said."""
    rest = config["restapi"]
    problem: Exception | None = None
    for url in urls:
        try:
            client = Client(url, rest["cafile"], rest["certfile"], timeout)
            return View(parse_cluster(client.get("/cluster")), is_synchronous(client.get("/config")))
        except (PatroniError, Refusal) as error:
            problem = error
    raise PatroniError("/cluster", f"no other member answers ({problem or 'there is none'})", "Look at the other hosts")
