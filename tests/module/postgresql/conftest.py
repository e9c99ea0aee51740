# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL primary and its replica on loopback, TLS with client certificates, and a stand-in for Patroni."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import ipaddress
import json
import os
import pwd
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ports import free_ports

ROOT = Path(__file__).parents[3]
PASSWORD = "test-only"
# initdb and postgres refuse to run as root.
USER = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


@dataclass(frozen=True)
class Programs:
    """Where PostgreSQL's programs are, and the environment that they need."""

    folder: Path
    environment: dict[str, str]

    def run(self, name: str, *arguments: object) -> None:
        """Run a program as USER; its output is part of the error."""
        command = [str(self.folder / name), *map(str, arguments)]
        user = USER if os.geteuid() == 0 else None
        # Output goes to a file: pg_ctl leaves a server behind that would hold a pipe open.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                command, env=self.environment, user=user, cwd="/", stdout=output, stderr=output, check=False, timeout=60
            )
            output.seek(0)
            assert done.returncode == 0, f"{' '.join(command)}: {output.read()}"


def find_programs(installed: Path) -> Programs:
    """Return the newest PostgreSQL that is installed, else one of this Debian release, unpacked by tools/servers."""
    folders = sorted(installed.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    if folders:
        return Programs(folders[-1].parent, environment)
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    # A folder that USER may read, which root's home is not.
    cache = {"XDG_CACHE_HOME": "/var/tmp"} if os.geteuid() == 0 else {}
    done = subprocess.run(
        [ROOT / "tools/servers", release["VERSION_CODENAME"].strip('"'), "postgresql"],
        env={**os.environ, **cache}, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    unpacked = Path(done.stdout.strip())
    libraries = [str(path) for path in (unpacked / "usr/lib").glob("*-linux-gnu")]
    folder = next((unpacked / "usr/lib/postgresql").glob("*/bin"))
    return Programs(folder, {**environment, "LD_LIBRARY_PATH": ":".join(libraries)})


@dataclass
class Authority:
    """A CA and one certificate for 127.0.0.1 that is server and client at once."""

    ca: Path
    pem: Path


def make_authority(folder: Path) -> Authority:
    """Make a CA and a certificate (key and certificate in one file) in folder."""
    now = datetime.datetime.now(datetime.UTC)

    def certificate(subject, key, issuer, signer, *extensions):
        builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer))
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=10))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def name(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    ca, pem = folder / "ca.crt", folder / "postgresql.pem"
    ca.write_bytes(certificate("ca", ca_key, "ca", ca_key, x509.BasicConstraints(ca=True, path_length=0)))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    pem.write_bytes(private + certificate("postgresql", key, "ca", ca_key, address))
    pem.chmod(0o600)
    return Authority(ca, pem)


@dataclass
class Database:
    """One PostgreSQL server."""

    name: str
    folder: Path
    port: int
    programs: Programs

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.programs.run("pg_ctl", "start", "-w", "-D", self.folder, "-l", self.folder / "log")

    def stop(self) -> None:
        """Stop it at once."""
        self.programs.run("pg_ctl", "stop", "-m", "immediate", "-D", self.folder)

    def query(self, statement: str, database: str = "postgres"):
        """Return the first column of the first row, None where there are no rows."""
        with psycopg.connect(
            host=str(self.folder), port=self.port, user="postgres", dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(statement)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None

    def wait(self, statement: str) -> None:
        """Wait until a condition is true, 20 seconds at most."""
        deadline = time.monotonic() + 20
        while not self.query(f"SELECT {statement}"):
            assert time.monotonic() < deadline, f"{self.name}: never true: {statement}"
            time.sleep(0.05)

    def catch_up(self, primary: Database) -> None:
        """Wait until this replica has replayed what the primary has written so far."""
        self.wait(f"pg_last_wal_replay_lsn() >= '{primary.query('SELECT pg_current_wal_lsn()')}'")


@dataclass
class Cluster:
    """A primary and its replicas."""

    folder: Path
    authority: Authority
    programs: Programs
    primary: Database

    def add_replica(self, name: str) -> Database:
        """Copy the primary and start the copy as a replica with a slot of its own."""
        replica = Database(name, self.folder / name, *free_ports(1), self.programs)
        self.primary.query(f"SELECT pg_create_physical_replication_slot('{name}', true)")
        self.programs.run(
            "pg_basebackup", "-D", replica.folder, "-R", "-X", "stream", "-S", name, "--checkpoint=fast", "--no-sync",
            "-d", f"host={self.primary.folder} port={self.primary.port} user=postgres application_name={name}",
        )  # fmt: skip
        configuration = replica.folder / "postgresql.auto.conf"
        with configuration.open("a") as stream:
            stream.write(f"port = {replica.port}\nunix_socket_directories = '{replica.folder}'\n")
        replica.start()
        self.primary.wait(
            f"exists (SELECT FROM pg_stat_replication WHERE application_name = '{name}' AND state = 'streaming')"
        )
        return replica


@pytest.fixture(scope="session")
def authority():
    """Certificates in a folder that USER may enter."""
    with tempfile.TemporaryDirectory(prefix="holdfast-pg-") as folder:
        Path(folder).chmod(0o755)
        yield make_authority(Path(folder))


@pytest.fixture(scope="session")
def cluster(authority):
    """A primary with archiving, reachable by TCP with TLS, client certificate and password."""
    programs = find_programs(Path("/usr/lib/postgresql"))
    folder = Path(tempfile.mkdtemp(prefix="holdfast-pg-"))
    if os.geteuid() == 0:
        shutil.chown(folder, USER)
    primary = Database("node1", folder / "node1", *free_ports(1), programs)
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    programs.run(
        "initdb", "-D", primary.folder, "-U", "postgres", "--no-sync", "--data-checksums",
        "--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={folder / 'password'}",
    )  # fmt: skip
    for source, target in ((authority.ca, "ca.crt"), (authority.pem, "postgresql.pem")):
        shutil.copy(source, primary.folder / target)
        os.chown(primary.folder / target, pwd.getpwnam(USER).pw_uid, -1)
    (primary.folder / "pg_hba.conf").write_text(
        "local all all trust\nlocal replication all trust\n"
        "hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n"
    )
    with (primary.folder / "postgresql.conf").open("a") as stream:
        stream.write(
            f"port = {primary.port}\nunix_socket_directories = '{primary.folder}'\nlisten_addresses = '127.0.0.1'\n"
            "fsync = off\nautovacuum = off\nwal_receiver_status_interval = 1\nwal_level = logical\n"
            "archive_mode = on\narchive_command = 'true'\n"
            "ssl = on\nssl_ca_file = 'ca.crt'\nssl_cert_file = 'postgresql.pem'\nssl_key_file = 'postgresql.pem'\n"
        )
    primary.start()
    yield Cluster(folder, authority, programs, primary)
    for postmaster in folder.glob("*/postmaster.pid"):
        programs.run("pg_ctl", "stop", "-m", "immediate", "-D", postmaster.parent)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def replica(cluster):
    """The replica node2."""
    return cluster.add_replica("node2")


@contextlib.contextmanager
def patroni(authority: Authority, answers: dict[str, object]):
    """Answer as Patroni's REST API does, over mutual TLS; yields the URL. The answers are a dict by path that may change."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(answers[self.path]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments):
            """Nothing is logged."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(authority.pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
