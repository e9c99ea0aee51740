# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""HAProxy's statistics, from the CSV of `show stat` to data. No I/O.

Source: HAProxy's Management Guide, "Statistics and monitoring", "CSV format".
"""

from __future__ import annotations

import csv
import io
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


def parse_stats(text: str) -> dict[str, Any]:
    """Return front ends and back ends with their servers by name.

    A server is up when it takes connections: its status is UP (also while going down, such as `UP 1/2`) or `no check`.
    Raises Refusal.
    """
    if not text.startswith("# pxname,"):
        raise Refusal(f"the answer to 'show stat' is not CSV of statistics: {text[:80]!r}")
    found: dict[str, Any] = {"frontends": {}, "backends": {}}
    for row in csv.DictReader(io.StringIO(text[2:])):
        name, server = row["pxname"], row["svname"]
        if server == "FRONTEND":
            found["frontends"][name] = {"status": row["status"], "sessions": int(row["scur"] or 0)}
        elif server == "BACKEND":
            _backend(found, name)["status"] = row["status"]
        else:
            _backend(found, name)["servers"].append(_server(row))
    return found


def _backend(found: dict[str, Any], name: str) -> dict[str, Any]:
    return found["backends"].setdefault(name, {"status": "", "servers": []})


def _server(row: dict[str, str]) -> dict[str, Any]:
    return {
        "name": row["svname"],
        "status": row["status"],
        "up": row["status"].startswith("UP") or row["status"] == "no check",
        "address": row.get("addr", ""),
        "sessions": int(row["scur"] or 0),
        "check": " ".join(filter(None, (row.get("check_status"), row.get("check_code"), row.get("last_chk")))),
        "seconds_since_change": int(row["lastchg"] or 0),
    }


def routes(stats: dict[str, Any], backend: str) -> list[str]:
    """Return the names of the servers of a back end that take connections."""
    return [server["name"] for server in stats["backends"].get(backend, {"servers": []})["servers"] if server["up"]]
