# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What a host says of itself, from the output of programs to data. No I/O."""

from __future__ import annotations

import json
import math
from ssl import PEM_FOOTER, PEM_HEADER, cert_time_to_seconds


def parse_units(text: str) -> list[dict[str, str]]:
    """Return name, state and since of each unit in the output of `systemctl show --property=Id,ActiveState,...`.

    state is the active state; with the sub state where they differ in meaning, such as `active (exited)`.
    """
    units = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if fields.get("Id"):
            units.append(
                {"name": fields["Id"], "state": _state(fields), "since": fields.get("ActiveEnterTimestamp", "")}
            )
    return units


def _state(fields: dict[str, str]) -> str:
    if fields.get("LoadState") == "not-found":
        return "not installed"
    active, sub = fields.get("ActiveState", "unknown"), fields.get("SubState", "")
    return active if sub in ("running", "waiting", "dead", "failed", "") else f"{active} ({sub})"


def parse_addresses(text: str) -> list[str]:
    """Return the addresses in the output of `ip -json address show`, without loopback's."""
    return [
        address["local"]
        for interface in json.loads(text)
        for address in interface.get("addr_info", [])
        if address.get("scope") == "global"
    ]


def days_left(not_after: str, now: float) -> int:
    """Return whole days until a certificate's end, negative once it is over.

    Parameters: not_after, as openssl prints it (`notAfter=Nov 22 23:30:00 2027 GMT`); now, seconds since the epoch.
    Raises ValueError for another text.
    """
    return math.floor((cert_time_to_seconds(not_after.strip().removeprefix("notAfter=")) - now) / 86400)


def split_certificates(text: str) -> list[str]:
    """Return the PEM of each certificate in a file, private keys left out."""
    parts = text.split(PEM_HEADER)[1:]
    return [PEM_HEADER + part.partition(PEM_FOOTER)[0] + PEM_FOOTER + "\n" for part in parts]
