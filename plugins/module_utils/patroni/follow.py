"""Whom a replica streams from, as Patroni writes it into postgresql.conf. No I/O."""

from __future__ import annotations

import re

# Patroni writes one line of keyword=value pairs; host and port are plain there (ConfigHandler.format_dsn of Patroni 3.0 to 4.1).
LINE = re.compile(r"^(primary_conninfo = '(?:[^'\n]*? )?)host=[^\s']+( port=)\d+(?=[\s'])", re.MULTILINE)


class FollowError(Exception):
    """A replica that could not be pointed to another primary: why."""


def pointed_at(configuration: str, host: str, port: int) -> str:
    """Return a replica's postgresql.conf with another primary. Raises FollowError where it names none."""
    if not LINE.search(configuration):
        raise FollowError("postgresql.conf has no primary_conninfo with host and port")
    return LINE.sub(lambda found: f"{found[1]}host={host}{found[2]}{port}", configuration)
