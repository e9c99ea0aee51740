# SPDX-License-Identifier: Apache-2.0
"""Give up PostgreSQL's leadership where Patroni sees nothing wrong: a server that takes no connection, a disk that takes no write.

A server that is gone is Patroni's matter, which it sees at its next turn; it is woken to see it at once.

Looks at this host's server and file systems all the time. What stays bad is written to etcd; where this host leads and another
can take over, it stops Patroni here, by force where it has to, so that the lock is free. It starts Patroni again when all has
been well for a while. Needs no controller, and does nothing on its own where etcd cannot be reached: Patroni gives up then.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pwd
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import yaml
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.client import EtcdError
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.keys import Keys
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni import beside, guard, waking
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.rest import Client, PatroniError
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.console import startup_message

SETTINGS = "/etc/holdfast/patroni-guard.json"
UNIT = "patroni.service"
USER = "postgres"
# Copies of the data directory leave out what is called like that (pg_basebackup, pg_rewind, pgBackRest).
PROBE = "pgsql_tmp.holdfast-guard"
PROBE_BYTES = 65536
# PostgreSQL's message Terminate.
GOODBYE = b"X\0\0\0\4"
MEBIBYTE = 1 << 20
REQUEST_SECONDS = 2.0
KILL_SECONDS = 3.0
# What a clock may be set by without harm; daemons that discipline it slew by less within a look.
CLOCK_STEP_SECONDS = 1.0
# Keys of a guard that is gone do not stay.
LEASE_SECONDS = 60
TOKEN = "guard/out"
SICK = "guard/sick/"


def now() -> float:
    """Return seconds since the host started, those asleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def clock() -> float:
    """Return the time of day less the time that only runs: it changes where the clock is set."""
    return time.time() - now()


def connect(path: str, seconds: float) -> guard.Finding:
    """Ask the server for a connection, as a new client does. Any answer is one, a refusal too."""
    subject = "PostgreSQL"
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(seconds)
        try:
            link.connect(path)
            link.sendall(startup_message(USER, "postgres"))
            if link.recv(1):
                link.sendall(GOODBYE)
        except (FileNotFoundError, ConnectionRefusedError):
            return guard.Finding(subject, gone=True)
        except (ConnectionResetError, BrokenPipeError):
            # It ended while it was asked: the next look tells.
            pass
        except (TimeoutError, BlockingIOError):
            return guard.Finding(subject, f"runs but takes no new connection within {seconds:g} s", stuck=True)
    return guard.Finding(subject)


def write_probe(folder: str, minimum: int) -> str:
    """Write a file and wait until it is on the disk; return what is wrong.

    A folder without anything else stays empty: a restore or a base backup is about to fill it, and refuses to find a file there.
    """
    path = os.path.join(folder, PROBE)
    try:
        if all(entry.name == PROBE for entry in os.scandir(folder)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return ""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, os.urandom(PROBE_BYTES))
            os.fsync(handle)
            # What the probe holds is room, too, which others have to be able to take.
            os.ftruncate(handle, 0)
            space = os.fstatvfs(handle)
        finally:
            os.close(handle)
    except FileNotFoundError:
        # There is no data directory yet.
        return ""
    except OSError as error:
        words = {errno.ENOSPC: "is full", errno.EDQUOT: "is full (quota)", errno.EROFS: "is read-only"}
        return words.get(error.errno or 0, f"takes no writes: {error.strerror}")
    free = space.f_bavail * space.f_frsize
    return f"is full: {free // MEBIBYTE} MiB are free" if free < minimum else ""


class Disk:
    """A file system, looked at by a process of its own that may stay behind when the disk does not answer.

    It runs as PostgreSQL's user: room that is kept for root is none. apart_from: a folder whose file system is looked at anyway.
    """

    def __init__(self, subject: str, folder: str, minimum: int, apart_from: str = "") -> None:
        self.subject, self._folder, self._minimum, self._apart_from = subject, folder, minimum, apart_from
        self._waiting = False
        question, self._ask = os.pipe()
        self._answer, answer = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(self._ask)
            os.close(self._answer)
            self._serve(question, answer)
        os.close(question)
        os.close(answer)

    def _serve(self, question: int, answer: int) -> None:
        """Answer each question with a line, until nobody asks."""
        status = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            user = pwd.getpwnam(USER)
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            while os.read(question, 1):
                same = self._apart_from and device_of(self._folder) == device_of(self._apart_from)
                os.write(answer, (("" if same else write_probe(self._folder, self._minimum)) + "\n").encode())
            status = 0
        finally:
            os._exit(status)

    def begin(self) -> None:
        """Ask, unless the last answer is still to come."""
        if not self._waiting:
            os.write(self._ask, b"?")
            self._waiting = True

    def end(self, seconds: float) -> guard.Finding:
        """Return what was found, waiting that long for it."""
        ready, _write, _error = select.select([self._answer], [], [], max(0.0, seconds))
        if not ready:
            return guard.Finding(self.subject, "completes no write in time", stuck=True)
        self._waiting = False
        text = os.read(self._answer, 4096)
        if not text:
            raise OSError(f"what looks at {self._folder} has ended")
        return guard.Finding(self.subject, text.decode().strip())


def device_of(folder: str) -> int:
    """Return the file system of a folder, 0 where it does not exist yet."""
    try:
        return os.stat(folder).st_dev
    except FileNotFoundError:
        return 0


class Host:
    """Patroni and PostgreSQL of this host, as systemd and the kernel know them: nothing here reads PostgreSQL's disk."""

    def __init__(self, stop_seconds: float) -> None:
        self._stop_seconds = stop_seconds

    @staticmethod
    def _systemctl(*words: str) -> str:
        done = subprocess.run(["systemctl", *words], capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            raise OSError(f"systemctl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def state(self) -> str:
        """Return the unit's ActiveState."""
        return self._systemctl("show", "--property=ActiveState", "--value", UNIT)

    def start(self) -> None:
        """Start Patroni."""
        self._systemctl("start", "--no-block", UNIT)

    def _group(self) -> str:
        """Return where the kernel lists the unit's processes; PostgreSQL is one of them, as Patroni starts it."""
        group = self._systemctl("show", "--property=ControlGroup", "--value", UNIT)
        paths = [f"{root}{group}/cgroup.procs" for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd")]
        return next((path for path in paths if group and os.path.exists(path)), "")

    @staticmethod
    def _kill_servers(group: str) -> None:
        """Kill PostgreSQL. What hangs in the kernel gets no further than there: it never acknowledges anything again."""
        try:
            with open(group, encoding="ascii") as lines:
                processes = [int(line) for line in lines]
        except FileNotFoundError:
            # The last process of the group has ended.
            return
        for process in processes:
            if name_of(process) == "postgres":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    def stopped_within(self, seconds: float) -> bool:
        """Wait until the unit has stopped; return whether it has."""
        deadline = time.monotonic() + seconds
        while self.state() in ("active", "activating", "deactivating", "reloading"):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.1)
        return True

    def stop(self, stuck: bool) -> None:
        """Stop Patroni and PostgreSQL, orderly where that is possible, by force where it lasts too long or is of no use."""
        group = self._group()
        if stuck:
            self._kill_servers(group)
        self._systemctl("stop", "--no-block", UNIT)
        if stuck or not self.stopped_within(self._stop_seconds):
            self._kill_servers(group)
            if not self.stopped_within(KILL_SECONDS):
                self._systemctl("kill", "--signal=KILL", UNIT)
        # Patroni ends without PostgreSQL where that does not stop.
        self._kill_servers(group)


def name_of(process: int) -> str:
    """Return the name of a process, empty if it is gone."""
    try:
        with open(f"/proc/{process}/comm", encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""


class Record:
    """What outlives this program: that it stopped Patroni, and when that was."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.phase, self.left = "", ()
        # A file that a killed guard left half-written says nothing.
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError), open(path, encoding="utf-8") as stream:
            data = json.load(stream)
            self.phase, self.left = data["phase"], tuple(data["left"])

    def write(self, phase: str, left: tuple[float, ...]) -> None:
        """Keep it. phase: out, returning, or empty for a host that takes part."""
        self.phase, self.left = phase, left
        beside_it = f"{self._path}.new"
        with open(beside_it, "w", encoding="utf-8") as stream:
            json.dump({"phase": phase, "left": left}, stream)
        os.replace(beside_it, self._path)


class Surroundings:
    """What the guard looks at and speaks with."""

    def __init__(self, settings: dict[str, Any], folder: str) -> None:
        self._settings = settings
        self._rules = guard.Rules(settings["failures"], settings["rest"])
        self._record = Record(os.path.join(folder, "record.json"))
        self._memory = guard.Memory(left=self._record.left)
        self._host = Host(settings["stop_timeout"])
        self._config: dict[str, Any] = {}
        self._keys: Keys | None = None
        self._lease = ""
        self._told = ""
        self._gone = True
        self._clock = clock()
        self._disks = list(self._make_disks())

    def _make_disks(self) -> Iterator[Disk]:
        minimum = self._settings["minimum_free"] * MEBIBYTE
        data = self._settings["data_dir"]
        yield Disk("the file system of the data", data, minimum)
        yield Disk("the file system of WAL", os.path.join(data, "pg_wal"), minimum, apart_from=data)

    def _look(self) -> list[guard.Finding]:
        begun = time.monotonic()
        for disk in self._disks:
            disk.begin()
        found = [connect(self._settings["socket"], self._settings["timeout"])]
        limit = begun + self._settings["disk_timeout"]
        return found + [disk.end(limit - time.monotonic()) for disk in self._disks]

    def _say(self, key: str, text: str) -> None:
        """Tell the journal what is new."""
        if key != self._told:
            print(text, flush=True)
        self._told = key

    def _read_config(self) -> dict[str, Any]:
        if not self._config:
            with open(beside.CONFIG, encoding="utf-8") as stream:
                self._config = yaml.safe_load(stream)
        return self._config

    def _patroni(self) -> Client:
        """Return a connection to this host's Patroni."""
        rest = self._read_config()["restapi"]
        return Client(f"https://{rest['connect_address']}", rest["cafile"], rest["certfile"], REQUEST_SECONDS)

    def _wake(self) -> bool:
        """Let Patroni take its turn now, by a change of the configuration that changes nothing; return whether it does."""
        # Where it doesn't answer, it is Patroni that ended the server, or there is nobody to wake.
        with contextlib.suppress(PatroniError):
            patroni = self._patroni()
            return waking.wake([patroni], waking.call_of(patroni.get("/config"))) > 0
        return False

    def _store(self) -> Keys:
        if self._keys is None:
            self._keys = beside.keys_of(self._read_config(), REQUEST_SECONDS)
        if not self._lease or not self._keys.renew(self._lease):
            self._lease = self._keys.grant(LEASE_SECONDS)
        return self._keys

    def _forget(self) -> None:
        """Take back what this guard wrote into etcd."""
        if self._keys is not None and self._lease:
            self._keys.revoke(self._lease)
        self._lease = ""

    @property
    def _name(self) -> str:
        return str(self._config["name"])


class Guard(Surroundings):
    """Looks, decides, acts. Raises OSError, EtcdError and PatroniError, after which the next look continues."""

    def turn(self) -> None:
        """Look once and do what follows from it."""
        self.mind_the_clock()
        found = self._look()
        gone = any(finding.gone for finding in found)
        if gone and not self._gone and not self._record.phase:
            self._wake()
        self._gone = gone
        self._memory, verdict = guard.observe(self._memory, found, self._rules, now())
        if self._record.phase == "out":
            self._be_out(verdict)
        elif self._record.phase == "returning":
            self._come_back()
        elif verdict.sick:
            self._be_sick(verdict)
        elif self._told:
            self._say("", "all is well again")
            self._forget()

    def mind_the_clock(self) -> None:
        """Wake Patroni where somebody set the clock.

        It counts its turns and its lease by the time of day (schedule_next_run and is_leader of 4.0 and 4.1): set back by an hour
        it would sleep for one, set forward it takes its lease for over until its next turn.
        """
        step = clock() - self._clock
        if abs(step) < CLOCK_STEP_SECONDS:
            self._clock += step
        elif self._wake():
            self._clock += step
            print(f"the clock was set by {step:+.0f} s: Patroni takes its turn now", flush=True)

    def _be_sick(self, verdict: guard.Verdict) -> None:
        keys = self._store()
        keys.put(SICK + self._name, verdict.sick, self._lease)
        leader = keys.get(beside.LEADER)
        if leader is None or leader.value != self._name:
            self._say(f"sick: {verdict.sick}", f"{verdict.sick}; this host does not lead, so nothing is done")
            return
        token = keys.get(TOKEN)
        try:
            reason = self._obstacle(keys, token.value if token else "")
        except PatroniError as error:
            reason = str(error)
        if not reason and token is None and not keys.create(TOKEN, self._name, self._lease):
            reason = "another host leaves at this moment"
        if reason:
            self._say(f"stays: {reason}", f"{verdict.sick}; this host keeps the lead, {reason}")
            return
        self._leave(verdict, keys)

    def _obstacle(self, keys: Keys, token: str) -> str:
        """Return why this host must not leave, as far as another member knows. Raises PatroniError where none answers."""
        others = [url for name, url in beside.api_urls(keys).items() if name != self._name]
        view = beside.ask_members(self._config, others, REQUEST_SECONDS)
        return guard.obstacle(view.cluster, self._name, view.synchronous, set(keys.list(SICK)), token)

    def _leave(self, verdict: guard.Verdict, keys: Keys) -> None:
        self._say("out", f"{verdict.sick}: stopping Patroni here, so that another host leads")
        begun = time.monotonic()
        self._memory = guard.leave(self._memory, now())
        self._record.write("out", self._memory.left)
        self._host.stop(verdict.stuck)
        self._free(keys)
        print(f"this host does not lead any more, after {time.monotonic() - begun:.1f} s", flush=True)

    def _free(self, keys: Keys) -> None:
        """End the lease of a leader that could not do so itself: Patroni has ended and PostgreSQL was killed."""
        leader = keys.get(beside.LEADER)
        if leader is not None and leader.value == self._name and leader.lease:
            keys.revoke(leader.lease)

    def _be_out(self, verdict: guard.Verdict) -> None:
        keys = self._store()
        keys.put(TOKEN, self._name, self._lease)
        if verdict.sick:
            keys.put(SICK + self._name, verdict.sick, self._lease)
        else:
            keys.delete(SICK + self._name)
        if self._host.state() == "active":
            # A guard that was killed while it stopped Patroni, or a person who started it.
            leader = keys.get(beside.LEADER)
            if leader is not None and leader.value == self._name and verdict.sick:
                self._host.stop(verdict.stuck)
                self._free(keys)
            else:
                self._record.write("returning", self._memory.left)
        elif guard.may_return(self._memory, self._rules, now()):
            self._say("returning", "all has been well for long enough: starting Patroni")
            self._record.write("returning", self._memory.left)
            self._host.start()

    def _come_back(self) -> None:
        keys = self._store()
        try:
            self._patroni().get("/health")
        except PatroniError:
            keys.put(TOKEN, self._name, self._lease)
            if self._host.state() in ("inactive", "failed") and guard.may_return(self._memory, self._rules, now()):
                self._host.start()
            return
        self._record.write("", self._memory.left)
        self._say("", "this host takes part again")
        self._forget()


def main() -> int:
    """Run until told to end."""
    with open(SETTINGS, encoding="utf-8") as stream:
        settings = json.load(stream)
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(0))
    looker = Guard(settings, os.environ["RUNTIME_DIRECTORY"])
    errors = (EtcdError, PatroniError, OSError, struct.error, subprocess.TimeoutExpired)
    said = ""
    while True:
        begun = time.monotonic()
        said = beside.attempted(looker.turn, errors, "not done", said)
        time.sleep(max(0.1, settings["interval"] - (time.monotonic() - begun)))


if __name__ == "__main__":
    sys.exit(main())
