# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What a backup job needs of the host it runs on: configuration, locks, other programs, and who leads the cluster now."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import manifest as manifests
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import make_folders, replace_file
from ansible_collections.holdfast.persistence.plugins.module_utils.files.lock import locked
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.cluster import Cluster, Member, parse_cluster
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.rest import Client, PatroniError
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

CONFIG = "/etc/holdfast/backup.json"
JOBS = "/etc/holdfast/backup-jobs.json"
LOCKS = "/run/lock/holdfast"
PATRONI_SECONDS = 5
# Errors of programs are shown from their end: there stands what went wrong.
_LONGEST_ERROR = 1500


@dataclass(frozen=True)
class Result:
    """What a job did. labels: backups it made, by engine; skipped: why it did nothing."""

    message: str
    labels: Mapping[str, Sequence[str]]
    bytes: int = 0
    skipped: bool = False


@dataclass(frozen=True)
class Context:
    """The configuration of a host, as the role wrote it. set: id that backups of this run share, or empty."""

    config: Mapping[str, Any]
    set: str = ""

    @property
    def cluster(self) -> str:
        """Name of the cluster."""
        return self.config["cluster"]

    @property
    def backup_dir(self) -> str:
        """Folder of the backups that are files; empty on hosts that keep none."""
        return self.config["backup_dir"]

    @property
    def state_dir(self) -> str:
        """Folder of the jobs' last results."""
        return self.config["state_dir"]

    def section(self, name: str) -> Mapping[str, Any]:
        """Return a part of the configuration. Raises Refusal where this host has none."""
        found = self.config.get(name)
        if not found:
            raise Refusal(f"this host's {CONFIG} has no {name}: such a job can't run here. Run site.yml.")
        return found


def load(path: str = CONFIG) -> Context:
    """Return the configuration of this host. Raises Refusal."""
    try:
        with open(path, encoding="utf-8") as file:
            return Context(json.load(file))
    except (OSError, ValueError) as error:
        raise Refusal(f"{path}: {error}. Run site.yml.") from error


def now() -> datetime.datetime:
    """Return the time, in UTC."""
    return datetime.datetime.now(datetime.UTC)


def run(
    command: Sequence[str],
    *,
    user: str = "",
    environment: Mapping[str, str] | None = None,
    seconds: float | None = None,
    given: str | None = None,
    what: str = "",
) -> str:
    """Run a program to its end; return what it printed. Raises Refusal with the program's own words.

    It ends with this process, also where that is killed: the next run finds nobody at work.
    Parameters: user it runs as, root where empty; environment in addition; seconds it may take; given, its standard input;
    what, words for the error instead of the command's name.
    """
    name = what or os.path.basename(command[0])
    extra: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user else {}
    if shutil.which(command[0]) is None:
        raise Refusal(f"{name}: {command[0]} is not installed here")
    try:
        done = subprocess.run(
            ["setpriv", "--pdeathsig=KILL", "--", *command],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd="/",
            input=given,
            stdin=None if given is not None else subprocess.DEVNULL,
            timeout=seconds,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
            **extra,
        )
    except subprocess.TimeoutExpired as error:
        raise Refusal(f"{name} was stopped after {seconds:.0f} s") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise Refusal(f"{name} can't be started: {error}") from error
    if done.returncode:
        told = (done.stderr.strip() or done.stdout.strip())[-_LONGEST_ERROR:]
        raise Refusal(f"{name} failed (status {done.returncode}): {told or 'without a message'}")
    return done.stdout


@contextlib.contextmanager
def lock(name: str, seconds: float, who: str, shared: bool = False) -> Iterator[None]:
    """Hold a lock of this host in the block; the kernel lets it go with the process. Raises Refusal after seconds."""
    make_folders(LOCKS)
    path = os.path.join(LOCKS, f"{name}.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not locked(descriptor, seconds, shared=shared):
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another job"
            raise Refusal(
                f"{name} is in use by {holder}, for more than {seconds:.0f} s now; run again when that is done"
            )
        if not shared:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{who} (process {os.getpid()})".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def look(context: Context) -> Cluster:
    """Return what Patroni says of the cluster now: who leads and who follows. Raises Refusal where no member answers."""
    patroni = context.section("patroni")
    errors = []
    for url in patroni["urls"]:
        try:
            client = Client(url, patroni["ca_cert"], patroni["client_cert"], PATRONI_SECONDS)
            return parse_cluster(client.get("/cluster"))
        except (PatroniError, Refusal) as error:
            errors.append(str(error))
    raise Refusal(f"no member of Patroni's cluster answers: {'; '.join(errors)}")


def wait_for_leader(context: Context, seconds: float) -> Cluster:
    """Return the cluster once it has a leader that works. Raises Refusal after seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = look(context)
            if any(member.is_leader and member.is_healthy for member in found.members):
                return found
            problem = "the cluster has no leader that works"
        except Refusal as error:
            problem = str(error)
        if time.monotonic() >= deadline:
            raise Refusal(f"{problem}, for {seconds:.0f} s now")
        time.sleep(1)


def sources(cluster: Cluster, prefer: str = "replica") -> list[Member]:
    """Return the members a dump may be taken from, the best first.

    Parameters: prefer, `replica` or `primary`. Replicas come by how little they lag, then by name.
    """
    healthy = [member for member in cluster.members if member.is_healthy]
    replicas = sorted(
        (member for member in healthy if not member.is_leader),
        key=lambda member: (member.lag is None, member.lag or 0, member.name),
    )
    leaders = [member for member in healthy if member.is_leader]
    return [*replicas, *leaders] if prefer == "replica" else [*leaders, *replicas]


def reason_to_skip(cluster: Cluster, member: str, where: str) -> str:
    """Return why a job is not this member's now, or an empty string. where: `primary` or `replica`."""
    healthy = [item for item in cluster.members if item.is_healthy]
    leaders = [item.name for item in healthy if item.is_leader]
    replicas = sorted(item.name for item in healthy if not item.is_leader)
    # Where there is no replica, its work is the primary's.
    chosen = leaders[:1] if where == "primary" or not replicas else replicas[:1]
    if not chosen:
        raise Refusal("Patroni's cluster has no member that works")
    return "" if chosen[0] == member else f"{chosen[0]} is the {where} that does it now"


def require_space(path: str, needed: int, why: str) -> None:
    """Raise Refusal where a folder can't be written or has less room than needed, in bytes."""
    try:
        make_folders(path, 0o750)
        probe = os.path.join(path, f".write-{os.getpid()}")
        with open(probe, "wb") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
        os.unlink(probe)
        free = shutil.disk_usage(path).free
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(probe)
        raise Refusal(
            f"{path} can't be written: {error.strerror}. Nothing was begun; free space or mount it, or set backup_dir."
        ) from error
    if free < needed:
        raise Refusal(
            f"{path} has {free >> 20} MiB free, {why} needs about {needed >> 20} MiB. Nothing was begun; "
            "free space (holdfast-backup prune), or set backup_dir to a larger disk."
        )


def state_path(context: Context, name: str) -> str:
    """Return the path of a job's last result."""
    return os.path.join(context.state_dir, f"{name}.json")


def write_state(context: Context, name: str, content: Mapping[str, Any]) -> None:
    """Write a job's state so that a reader sees the old or the new one, whole."""
    make_folders(context.state_dir)
    text = json.dumps({"host": socket.gethostname(), **content}, indent=1)
    replace_file(state_path(context, name), f"{text}\n", mode=0o644)


def stamp() -> str:
    """Return the time as manifests tell it."""
    return manifests.iso(now())
