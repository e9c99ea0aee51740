# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""How modules reach Patroni: the options of the documentation fragment `patroni`, and the client made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.rest import Client


def argument_spec(**options: Any) -> dict[str, Any]:
    """Return the connection options and those of a module."""
    return {
        "url": {"type": "str", "required": True},
        "ca_cert": {"type": "path", "required": True},
        "client_cert": {"type": "path", "required": True},
        "timeout": {"type": "float", "default": 5.0},
        **options,
    }


def client_of(params: Mapping[str, Any], url: str | None = None) -> Client:
    """Return a client for the options of a module, or for another member's url. Raises PatroniError."""
    return Client(url or params["url"], params["ca_cert"], params["client_cert"], params["timeout"])
