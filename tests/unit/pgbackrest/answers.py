# SPDX-License-Identifier: Apache-2.0
"""Answers of pgBackRest as the lab's gives them."""

from __future__ import annotations

import json
from typing import Any

SYSTEM = 7450000000000000001


def backup(
    label: str, *, start: int = 0, stop: int, timeline: int = 1, lsn: int = 0x2000000, **more: Any
) -> dict[str, Any]:
    """Return one backup of an answer; times in seconds, lsn in bytes where it ends."""
    segment = f"{timeline:08X}{0:08X}{lsn >> 24:08X}"
    return {
        "label": label,
        "type": "full",
        "error": False,
        "prior": None,
        "archive": {"start": segment, "stop": segment},
        "database": {"id": 1, "repo-key": 1},
        "info": {"size": 1000, "repository": {"delta": 100}},
        "lsn": {"start": f"0/{lsn - 0x100:X}", "stop": f"0/{lsn:X}"},
        "timestamp": {"start": start, "stop": stop},
        **more,
    }


def answer(backups: list[dict[str, Any]], last: str = "00000001000000000000000F") -> str:
    """Return what `pgbackrest info --output=json` prints for one repository."""
    return json.dumps(
        [
            {
                "name": "lab",
                "archive": [{"database": {"id": 1, "repo-key": 1}, "min": "000000010000000000000001", "max": last}],
                "backup": backups,
                "db": [{"id": 1, "repo-key": 1, "system-id": SYSTEM, "version": "17"}],
                "repo": [{"cipher": "aes-256-cbc", "key": 1, "status": {"code": 0, "message": "ok"}}],
                "status": {"code": 0, "message": "ok"},
            }
        ]
    )
