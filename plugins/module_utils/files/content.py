# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Content of files: read where there is one, replaced whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable


def read_text(path: str) -> str:
    """Return the content of a file, nothing where it is not there. Raises OSError."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""


def replace_file(
    path: str, content: str, *, mode: int, uid: int = -1, gid: int = -1, judge: Callable[[str], None] | None = None
) -> None:
    """Make or replace a file; readers, a killed run and a power loss find the old content or the new one.

    Parameters: mode, permission bits; uid and gid, owner and group, those of this process where -1; judge, called with the path
    of the new file before it takes its place: what it raises leaves the old one.
    Raises OSError.
    """
    handle, beside = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            os.fchown(handle, uid, gid)
            os.fchmod(handle, mode)
            stream.write(content)
            stream.flush()
            os.fsync(handle)
        if judge is not None:
            judge(beside)
        os.replace(beside, path)
        sync(os.path.dirname(path))
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise


def sync(path: str) -> None:
    """Have a file, or the names in a folder, on disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(path: str, mode: int = 0o755) -> None:
    """Make a folder and its missing parents, all of that mode whatever the umask is. Raises OSError."""
    if os.path.isdir(path):
        return
    make_folders(os.path.dirname(path) or ".", mode)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)
        os.chmod(path, mode)
