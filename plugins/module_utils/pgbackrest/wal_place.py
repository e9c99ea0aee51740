# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""WAL on a disk of its own: PGDATA/pg_wal is a link, and a data directory goes nowhere without the folder behind it.

Each function can be killed at any line and be called again.
"""

from __future__ import annotations

import os
import shutil

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

# What PostgreSQL (17: summaries) and pgBackRest make in a pg_wal that holds no WAL yet.
_EMPTY_FOLDERS = frozenset(("archive_status", "summaries"))


def target(data: str) -> str:
    """Return the folder behind the link PGDATA/pg_wal, empty where that is a folder itself or missing."""
    path = os.path.join(data, "pg_wal")
    return os.path.normpath(os.path.join(data, os.readlink(path))) if os.path.islink(path) else ""


def rename(data: str, to: str, wal_dir: str, suffix: str) -> None:
    """Rename a data directory, and before it the folder of its WAL, to wal_dir with the suffix. Raises OSError."""
    old = target(data)
    new = f"{wal_dir}{suffix}"
    if old and wal_dir and old != new:
        # The link of the coming name says that a rename of the folder is under way; the old one leads nowhere meanwhile.
        _point(os.path.join(data, "pg_wal.new"), new)
        if os.path.exists(old) and not os.path.exists(new):
            os.rename(old, new)
        os.replace(os.path.join(data, "pg_wal.new"), os.path.join(data, "pg_wal"))
    os.rename(data, to)


def remove(data: str) -> None:
    """Delete a data directory and the folder of its WAL. Raises OSError."""
    wal = target(data)
    if wal and os.path.isdir(wal):
        shutil.rmtree(wal)
    shutil.rmtree(data)


def place(data: str, wal_dir: str, uid: int = -1, gid: int = -1) -> None:
    """Make wal_dir, the folder of WAL, and let it belong to uid and gid (to those of this process where -1).

    pg_wal of a restored data directory, in which no server ran yet, becomes a link to it. Raises Refusal, OSError.
    """
    path = os.path.join(data, "pg_wal")
    if target(data) == wal_dir and os.path.isdir(wal_dir):
        return
    if os.path.isdir(wal_dir):
        _refuse_full(wal_dir)
        shutil.rmtree(wal_dir)
    os.mkdir(wal_dir, mode=0o700)
    os.chown(wal_dir, uid, gid)
    if os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            shutil.move(os.path.join(path, name), os.path.join(wal_dir, name))
            os.chown(os.path.join(wal_dir, name), uid, gid)
        os.rmdir(path)
    _point(f"{path}.new", wal_dir)
    os.replace(f"{path}.new", path)
    os.chown(path, uid, gid, follow_symlinks=False)


def _refuse_full(wal_dir: str) -> None:
    names = sorted(os.listdir(wal_dir))
    full = [name for name in names if name not in _EMPTY_FOLDERS or os.listdir(os.path.join(wal_dir, name))]
    if full:
        raise Refusal(
            f"{wal_dir} holds {', '.join(full[:3])}", "Move it away if it is WAL that nobody needs; nothing was changed"
        )


def _point(path: str, to: str) -> None:
    if os.path.islink(path):
        os.unlink(path)
    os.symlink(to, path)
