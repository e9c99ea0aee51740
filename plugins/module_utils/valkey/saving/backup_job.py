# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The job that backs the Valkey cluster up, for the program of the backup host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.context import Context, Result
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.jobs import Job
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import connection
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Endpoint,
    Options,
    ValkeyError,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving import backup
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.backup_take import Wish, take

ROOM = 64 << 20


def run(context: Context, job: Job) -> Result:
    """Make a backup. Raises Refusal."""
    if connection.library is None:
        raise Refusal("this host has neither python3-redis nor python3-valkey. Run site.yml.")
    config = context.section("valkey")
    contexts.require_space(context.backup_dir, ROOM, "a backup of Valkey")
    try:
        wish = Wish(
            nodes=tuple(Endpoint(node["address"], int(node["port"])) for node in config["nodes"]),
            cluster=context.cluster,
            backup_dir=context.backup_dir,
            set=context.set,
            kind=job.options.get("type", backup.RDB),
            source=job.options.get("source", backup.AUTO),
            rate=float(job.rate) or None,
        )
        taken = take(wish, options_of(config))
    except ValkeyError as error:
        raise Refusal(str(error)) from error
    except OSError as error:
        raise Refusal(f"{context.backup_dir}: {error}. Nothing was kept of this backup.") from error
    held = taken.manifest.position["held_ms"]
    message = f"{wish.kind} backup {taken.manifest.label}, writes held {held} ms"
    return Result(message, {backup.ENGINE: [taken.manifest.label]}, taken.manifest.bytes)


def options_of(config: Mapping[str, Any]) -> Options:
    """Return how to reach the cluster's servers, out of the host's configuration."""
    return Options(
        username=config["username"],
        password=config["password"],
        tls=True,
        ca_cert=config["ca_cert"],
        client_cert=config["client_cert"],
    )
