# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Files as they are on this host."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.files.wish import Found


def read(path: str) -> Found:
    """Return what is at path."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Found()
    found: dict[str, Any] = {
        "owner": _user(status.st_uid),
        "group": _group(status.st_gid),
        "mode": stat.S_IMODE(status.st_mode),
    }
    if stat.S_ISDIR(status.st_mode):
        return Found("folder", **found)
    if not stat.S_ISREG(status.st_mode):
        return Found("other", **found)
    with open(path, "rb") as stream:
        return Found("file", stream.read(), **found)


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
