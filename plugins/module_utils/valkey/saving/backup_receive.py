# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Brings the files of a backup home, all shards at once, each in a thread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import store
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import make_folders, replace_file
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.moving.throttle import Bucket
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving import backup
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.backup_stream import (
    Received,
    ReplicaStream,
)

SPARE_BYTES = 64 << 20


class Space:
    """Lets a file begin only where there is room for it and for what is left of those that have begun."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._left = 0

    def reserve(self, size: int) -> None:
        """Take room for a file. Raises Refusal where there is none."""
        with self._lock:
            state = os.statvfs(self._folder)
            free = state.f_bavail * state.f_frsize
            if free - self._left - size < SPARE_BYTES:
                raise Refusal(
                    f"{os.path.dirname(self._folder)} has {free >> 20} MiB free; this file needs {size >> 10} KiB, the others"
                    f" {self._left >> 10} KiB, and {SPARE_BYTES >> 20} MiB stay free",
                    "Nothing was kept of this backup. Free space, or name another backup_dir",
                )
            self._left += size

    def use(self, size: int) -> None:
        """Note what was written of what was taken."""
        with self._lock:
            self._left -= size


class Receivers:
    """Threads that write files until all are there; an error in one ends all.

    Parameters: streams by the name of the file, each asked already; follow, whether writes after the file belong to it.
    """

    def __init__(self, streams: Mapping[str, ReplicaStream], folder: str, rate: float | None, *, follow: bool) -> None:
        self._streams = streams
        self._folder = folder
        self._follow = follow
        self._bucket = Bucket(rate, time.monotonic, time.sleep)
        self._space = Space(folder)
        self._ends: dict[str, int] = {}
        self._copied = {name: threading.Event() for name in streams}
        self._errors: list[BaseException] = []
        self._pool = ThreadPoolExecutor(len(streams))
        self._jobs = {name: self._pool.submit(self._receive, name) for name in streams}

    def __enter__(self) -> Receivers:
        return self

    def __exit__(self, *_details: object) -> None:
        self._close()
        self._pool.shutdown()

    def copied(self) -> None:
        """Wait until all files are here, with the writes after them still coming. Raises the first error."""
        for event in self._copied.values():
            event.wait()
        if self._errors:
            raise self._errors[0]

    def until(self, ends: Mapping[str, int]) -> None:
        """Say up to which offset the writes belong to the backup."""
        self._ends.update(ends)

    def result(self) -> dict[str, list[Received]]:
        """Wait for all; the RDB file comes first. Raises the first error."""
        found = {}
        for name, job in self._jobs.items():
            try:
                found[name] = job.result()
            except BaseException as error:
                raise self._errors[0] from error
        return found

    def _close(self) -> None:
        for stream in self._streams.values():
            stream.close()

    def _receive(self, name: str) -> list[Received]:
        try:
            return self._files(name, self._streams[name])
        except BaseException as error:
            self._errors.append(error)
            self._close()
            raise
        finally:
            self._copied[name].set()

    def _files(self, name: str, stream: ReplicaStream) -> list[Received]:
        size = stream.size()
        self._space.reserve(size)
        if not self._follow:
            return [stream.receive(os.path.join(self._folder, f"{name}.rdb"), size, self._pace)]
        folder = os.path.join(self._folder, name, backup.AOF_FOLDER)
        make_folders(folder, 0o750)
        base = stream.receive(os.path.join(folder, backup.AOF_BASE), size, self._pace)
        self._copied[name].set()
        increment = stream.follow(os.path.join(folder, backup.AOF_INCREMENT), lambda: self._ends.get(name))
        path = os.path.join(folder, backup.AOF_MANIFEST)
        replace_file(path, backup.aof_manifest(), mode=0o600)
        return [base, increment, Received(path, os.path.getsize(path), store.digest(path), 0)]

    def _pace(self, size: int) -> None:
        self._space.use(size)
        self._bucket.take(size)
