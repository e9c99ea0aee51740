# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Wake members of Patroni that sleep until their next turn, while commits wait for them.

A change of the dynamic configuration wakes a member, also one that changes nothing (`do_PATCH_config` of 3.0 to 4.1).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.rest import Client, PatroniError


def call_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the change that changes nothing, empty where the dynamic configuration (of GET /config) holds nothing to repeat."""
    return {"loop_wait": config["loop_wait"]} if config.get("loop_wait") is not None else {}


def wake(members: Iterable[Client], call: Mapping[str, Any]) -> int:
    """Wake all members at the same time; return how many took the call, none where it is empty.

    A member that does not answer is down, or wakes by itself.
    """
    taken: list[str] = []

    def take(client: Client) -> None:
        with contextlib.suppress(PatroniError):
            client.patch("/config", call)
            taken.append(client.url)

    # Threads that nobody has to wait for at the end of the process.
    threads = [threading.Thread(target=take, args=(client,), daemon=True) for client in members if call]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(taken)
