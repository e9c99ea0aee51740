# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Options that the modules of event stores share, and what is made of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.events.psql import Reach
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

SHARED: dict[str, dict[str, Any]] = {
    "login_host": {"type": "str", "default": "/var/run/postgresql"},
    "login_port": {"type": "int", "default": 5432},
    "login_user": {"type": "str", "default": "postgres"},
    "login_password": {"type": "str", "no_log": True},
    "login_db": {"type": "str", "required": True},
    "session_role": {"type": "str", "default": ""},
    "ssl_mode": {
        "type": "str",
        "choices": ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
        "default": "prefer",
    },
    "ca_cert": {"type": "path"},
    "client_cert": {"type": "path"},
    "bin_dir": {"type": "path", "default": ""},
    "folder": {"type": "path", "default": "/var/lib/holdfast/backup"},
    "archive": {"type": "str", "required": True},
}


def reach(options: Mapping[str, Any]) -> Reach:
    """Return the way to the server that a module's options name. Raises Refusal where a program is missing."""
    found = os.path.join(options["bin_dir"], "psql") if options["bin_dir"] else shutil.which("psql")
    if not found or not os.access(found, os.X_OK):
        raise Refusal(
            f"psql is missing on this host (bin_dir: {options['bin_dir'] or 'not given'}): install postgresql-client"
        )
    if shutil.which("zstd") is None:
        raise Refusal("zstd is missing on this host: install the package zstd")
    environment = {"PGSSLMODE": options["ssl_mode"]}
    for name, value in (
        ("PGPASSWORD", options["login_password"]),
        ("PGSSLROOTCERT", options["ca_cert"]),
        ("PGSSLCERT", options["client_cert"]),
        ("PGSSLKEY", options["client_cert"]),
    ):
        if value:
            environment[name] = value
    return Reach(
        bin_dir=os.path.dirname(found),
        host=options["login_host"],
        port=options["login_port"],
        user=options["login_user"],
        database=options["login_db"],
        environment=environment,
        role=options["session_role"],
    )
