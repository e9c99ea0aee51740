# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Whom a replica streams from, as Patroni writes it into postgresql.conf and its password file. No I/O."""

from __future__ import annotations

import re

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

# Patroni writes one line of keyword=value pairs; host and port are plain there, and the password file has a line for them
# (ConfigHandler.format_dsn and _write_passfile of Patroni 3.0 to 4.1).
LINE = re.compile(r"^(primary_conninfo = '(?:[^'\n]*? )?)host=[^\s']+( port=)\d+(?=[\s'])", re.MULTILINE)
PASSFILE = re.compile(r"^primary_conninfo = '(?:[^'\n]*? )?passfile=([^\s']+)", re.MULTILINE)
PASSWORD = re.compile(r"^(?:[^:\\\n]|\\.)+:\d+(?=:)", re.MULTILINE)


def pointed_at(configuration: str, host: str, port: int) -> str:
    """Return a replica's postgresql.conf with another primary. Raises Refusal where it names none."""
    if not LINE.search(configuration):
        raise Refusal("postgresql.conf has no primary_conninfo with host and port")
    return LINE.sub(lambda found: f"{found[1]}host={host}{found[2]}{port}", configuration)


def passfile_of(configuration: str) -> str:
    """Return the path of the password file that a replica's postgresql.conf names, empty where it names none."""
    found = PASSFILE.search(configuration)
    return found[1] if found else ""


def opened_for(passwords: str, host: str, port: int) -> str:
    """Return a password file whose lines are for another primary."""
    escaped = host.replace("\\", "\\\\").replace(":", "\\:")
    return PASSWORD.sub(lambda _found: f"{escaped}:{port}", passwords)
