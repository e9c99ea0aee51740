# SPDX-License-Identifier: Apache-2.0
"""Certificates, their authority and passwords rotate while applications work: none of them sees an error.

`make rotation` runs it on the lab that stands. Clients are pgbench with eight connections and writers through the virtual address, and a
client of the Valkey cluster.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import killed_playbook
import psycopg
import pytest
from lab_access import ROOT, Lab, ansible_playbook, changes, failures, outcome
from sql_load import Load

sys.path.insert(0, str(ROOT / "tests/module"))
import valkey_load

KILLS = int(os.environ.get("HOLDFAST_ROTATION_KILLS", "3"))
KEYS = 500
PGBENCH_SECONDS = 3600
CERTIFICATES = "playbooks/rotate_certificates.yml"
PASSWORDS = "playbooks/rotate_passwords.yml"


def play(*arguments: str) -> dict[str, Any]:
    """Run a playbook that has to succeed; return its outcome."""
    done = ansible_playbook(*arguments)
    assert done.returncode == 0, failures(done)
    return outcome(done)


def rotate_passwords(*arguments: str) -> None:
    """Rotate, and let the lab's own clients know."""
    play(PASSWORDS, *arguments)
    play("molecule/default/connection.yml")


def refused(text: str, *arguments: str) -> None:
    """Run a playbook that has to be refused with that text, before anything is changed."""
    done = ansible_playbook(*arguments)
    assert done.returncode != 0
    assert text in done.stdout, done.stdout[-3000:]
    assert all(stats["changed"] == 0 for stats in outcome(done)["stats"].values())


def unchanged() -> None:
    """The stack as it stands is what site.yml wants."""
    assert changes(ansible_playbook("playbooks/site.yml")) == {}


def check() -> None:
    """Every rule of check.yml holds."""
    play("playbooks/check.yml", "--extra-vars", "check_fail_on=warning")


def pgbench_command() -> str:
    """Return pgbench of this machine."""
    found = shutil.which("pgbench") or next(map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))), "")
    assert found, "pgbench is missing: install postgresql-client and postgresql-contrib"
    return found


def pgbench_settings(lab: Lab) -> dict[str, str]:
    """Return libpq's environment of the application."""
    certificate, key = lab.client_certificate
    return {
        **os.environ,
        "PGHOST": lab.vip,
        "PGPORT": "6432",
        "PGDATABASE": "orderdb",
        "PGUSER": lab.environment["PGUSER"],
        "PGPASSWORD": lab.secret(f"postgresql_user_{lab.environment['PGUSER']}"),
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": str(lab.certificate_authority),
        "PGSSLCERT": str(certificate),
        "PGSSLKEY": str(key),
    }


@contextmanager
def pgbench(lab: Lab) -> Iterator[None]:
    """pgbench -c 8 beside the block; none of its transactions may fail."""
    settings = pgbench_settings(lab)
    subprocess.run([pgbench_command(), "-i", "-s", "1", "-q"], env=settings, check=True, capture_output=True)
    options = ["-c", "8", "-j", "2", "-P", "30", "--rate", "80", "--protocol", "prepared", "-T", str(PGBENCH_SECONDS)]
    process = subprocess.Popen(
        [pgbench_command(), *options], env=settings, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        time.sleep(2)
        assert process.poll() is None, process.communicate()
        yield
        assert process.poll() is None, process.communicate()
    finally:
        process.terminate()
        out, err = process.communicate(timeout=30)
    seen = [line for line in (out + err).splitlines() if re.search(r"(?i)error|aborted|failed: [1-9]|fatal", line)]
    assert seen == []
    progress = re.findall(r"progress: [\d.]+ s, ([\d.]+) tps", err)
    print(f"pgbench: {len(progress)} reports of 30 s, tps {progress}")


class Newcomers:
    """Applications that connect anew for every transaction, with the password and certificates of that moment."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.errors: list[str] = []
        self.logins = 0

    def __enter__(self) -> Newcomers:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        self._thread.join()

    def _work(self) -> None:
        user = self._lab.environment["PGUSER"]
        while not self._end.is_set():
            began = time.strftime("%H:%M:%S")
            try:
                password = self._lab.secret(f"postgresql_user_{user}")
                with self._lab.sql(self._lab.vip, 6432, "orderdb", password=password, connect_timeout=30) as connection:
                    connection.execute("SELECT 1")
                self.logins += 1
            except psycopg.Error as error:
                self.errors.append(f"{began}: {' '.join(str(error).split())}")
            self._end.wait(0.2)


@contextmanager
def clients(lab: Lab, *, logins: bool = True) -> Iterator[None]:
    """All clients beside the block; with logins new connections, too, may not fail."""
    with (
        Load(lab, prepared=True) as load,
        pgbench(lab),
        Newcomers(lab) as newcomers,
        valkey_load.Load(7001, KEYS, valkey_access(lab)) as cluster,
    ):
        yield
    print(
        f"{load.transactions} transactions, longest {load.longest(0, time.time()):.2f} s; {newcomers.logins} new connections, "
        f"{len(newcomers.errors)} refused; Valkey {cluster.seen['operations']} operations"
    )
    assert load.errors == []
    assert load.lost() == 0
    assert load.transactions > 0
    assert cluster.seen["errors"] == []
    assert cluster.seen["wrong"] == []
    if logins:
        assert newcomers.errors == []
    else:
        print("\n".join(newcomers.errors))


def valkey_access(lab: Lab) -> dict[str, Any]:
    """Return how the application logs in to the Valkey cluster."""
    certificate, key = lab.client_certificate
    return {
        "host": lab.addresses["node1"],
        "ca_cert": str(lab.certificate_authority),
        "client_cert": str(certificate),
        "client_key": str(key),
        "username": "orderapp",
        "password": lab.secret("valkey_user_orderapp"),
    }


def authorities(lab: Lab) -> list[str]:
    """Return the digests of the trusted certificates on the controller and on every host, which agree."""

    def digests(text: str) -> list[str]:
        return re.findall(r"-----BEGIN CERTIFICATE-----(.*?)-----END", text, re.DOTALL)

    here = digests(lab.certificate_authority.read_text())
    for host in (*lab.hosts.values(), lab.backup):
        assert digests(host.file("/etc/ssl/holdfast/ca.crt").content_string) == here
    return here


def leaves(lab: Lab) -> dict[str, str]:
    """Return the digest of every certificate and key of every host."""
    return {
        f"{name} {line.split()[1]}": line.split()[0]
        for name, host in lab.hosts.items()
        for line in host.check_output("sha256sum /etc/ssl/holdfast/*.pem").splitlines()
    }


def started(lab: Lab) -> dict[str, str]:
    """Return when PostgreSQL's postmasters and PgBouncers began."""
    command = (
        "head -1 /var/lib/postgresql/*/*/postmaster.pid; systemctl show --value -p ExecMainStartTimestamp pgbouncer"
    )
    return {name: host.check_output(command) for name, host in lab.hosts.items()}


@pytest.fixture(scope="module", autouse=True)
def data(lab: Lab) -> None:
    """Keys for the Valkey client."""
    valkey_load.fill(7001, KEYS, 0, valkey_access(lab))


def test_bad_input_is_refused_before_anything_changes(lab: Lab) -> None:
    refused("allowed are begin, switch, finish", CERTIFICATES, "--extra-vars", "rotate_certificates_ca=start")
    refused("without --limit", CERTIFICATES, "--limit", "node1")
    refused("rotate_certificates_ca=begin first", CERTIFICATES, "--extra-vars", "rotate_certificates_ca=switch")
    refused("rotate_certificates_ca=switch first", CERTIFICATES, "--extra-vars", "rotate_certificates_ca=finish")
    empty = lab.secrets / "postgresql_superuser.next"
    for content, found in (("", "an empty secret"), ("geheim\n", "a secret of 6 characters")):
        empty.write_text(content)
        refused(found, PASSWORDS, "--tags", "postgresql")
    empty.unlink()
    assert not list(lab.secrets.glob("*.next")) + list(lab.secrets.glob("*.previous"))


def test_certificates_rotate(lab: Lab) -> None:
    before, processes = leaves(lab), started(lab)
    with clients(lab):
        play(CERTIFICATES)
    after = leaves(lab)
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)
    assert started(lab) == processes
    unchanged()
    check()


@pytest.mark.parametrize(("step", "trusted"), [("begin", 2), ("switch", 2), ("finish", 1)])
def test_the_authority_is_replaced(lab: Lab, step: str, trusted: int) -> None:
    before = authorities(lab)
    with clients(lab):
        play(CERTIFICATES, "--extra-vars", f"rotate_certificates_ca={step}")
    after = authorities(lab)
    assert len(after) == trusted
    if step == "finish":
        assert after == before[1:]
        assert sorted(path.name for path in (lab.secrets / "tls").iterdir()) == ["ca.crt", "ca.key", "clients", "hosts"]
    unchanged()
    check()


def test_passwords_rotate(lab: Lab) -> None:
    names = [
        "postgresql_superuser",
        "postgresql_replication",
        "postgresql_rewind",
        "pgbouncer",
        "postgresql_dump",
        "etcd_root",
        "etcd_patroni",
    ]
    names += ["postgresql_user_orderuser", "valkey_admin", "valkey_backup", "valkey_user_orderapp"]
    old, processes = {name: lab.secret(name) for name in names}, started(lab)
    # New connections use the password of the moment: those between two steps may meet the one that is just going.
    with clients(lab, logins=False):
        rotate_passwords()
    assert all(lab.secret(name) != old[name] for name in names)
    assert started(lab) == processes
    with pytest.raises(psycopg.OperationalError):
        lab.sql(lab.vip, 6432, "orderdb", password=old["postgresql_user_orderuser"])
    unchanged()
    with clients(lab):
        play(PASSWORDS, "--extra-vars", "rotate_passwords_finish=true")
    assert not list(lab.secrets.glob("*.next")) + list(lab.secrets.glob("*.previous"))
    lab.backup.check_output("holdfast-backup now --engines logical,valkey")
    unchanged()
    check()


@pytest.mark.parametrize(
    "arguments",
    [(CERTIFICATES, "--extra-vars", "rotate_certificates_ca=begin"), (PASSWORDS, "--tags", "postgresql")],
    ids=["certificates", "passwords"],
)
def test_a_killed_rotation_goes_on(lab: Lab, arguments: tuple[str, ...]) -> None:
    chance = killed_playbook.chance()
    with clients(lab, logins=False):
        for _kill in range(KILLS):
            print(killed_playbook.kill(chance.uniform(5, 60), *arguments))
        if arguments[0] == PASSWORDS:
            rotate_passwords(*arguments[1:])
            play(*arguments, "--extra-vars", "rotate_passwords_finish=true")
        else:
            play(*arguments)
            for step in ("switch", "finish"):
                play(CERTIFICATES, "--extra-vars", f"rotate_certificates_ca={step}")
    unchanged()
    check()
