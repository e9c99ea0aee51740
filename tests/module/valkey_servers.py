# SPDX-License-Identifier: Apache-2.0
"""Real valkey-server processes on loopback, for tests: plain, or with TLS and ACL users."""

from __future__ import annotations

import datetime
import ipaddress
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from ports import free_ports, is_free

ROOT = Path(__file__).resolve().parents[2]
SUITES = {"8.1": "trixie", "9.1": "forky"}
PASSWORD = "correct-horse"


def binaries(version: str) -> Path:
    """Return the folder with the programs of a version, fetching them if need be."""
    command = [str(ROOT / "tools" / "servers"), SUITES[version]]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()) / "run"


@dataclass(frozen=True)
class Certificates:
    """PEM files: the authority and one combined file (key and certificate) that servers and clients use."""

    ca: Path
    combined: Path


def make_certificates(folder: Path, name: str = "node") -> Certificates:
    """Make an authority and a certificate for 127.0.0.1 and localhost. name: its common name, empty for none."""
    now = datetime.datetime.now(datetime.UTC)

    def builder(name: str, issuer: str, key: Any) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=2))
        )

    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _key in range(2))
    authority = (
        builder("test authority", "test authority", authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    leaf = (
        builder(name, "test authority", key)
        .add_extension(x509.SubjectAlternativeName(names), critical=not name)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    encoded_key = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files = Certificates(folder / "ca.crt", folder / "node.pem")
    folder.mkdir(parents=True, exist_ok=True)
    files.ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    files.combined.write_bytes(encoded_key + leaf.public_bytes(serialization.Encoding.PEM))
    files.combined.chmod(0o600)
    return files


@dataclass
class ValkeyServers:
    """A number of servers in cluster mode.

    secure: TLS on client port, bus and replication, a user `admin` with PASSWORD, the default user off.
    settings: further settings for all. databases: how many each has; more than one from Valkey 9.0 on only.
    """

    version: str
    number: int
    secure: bool = False
    settings: dict[str, str] = field(default_factory=dict)
    databases: int = 1

    def __enter__(self) -> ValkeyServers:
        self.programs = binaries(self.version)
        self.folder = Path(tempfile.mkdtemp(prefix="valkey-servers-"))
        self.certificates = make_certificates(self.folder / "tls") if self.secure else None
        (self.folder / "users.acl").write_text(f"user default off\nuser admin on >{PASSWORD} ~* &* +@all\n")
        self.ports = free_ports(self.number)
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        try:
            for port in self.ports:
                self.start(port)
            for port in self.ports:
                self.wait(port)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_details: object) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()
        shutil.rmtree(self.folder)

    def start(self, port: int) -> None:
        """Start the server of a port, with the data that it had."""
        folder = self.folder / str(port)
        folder.mkdir(exist_ok=True)
        words = [f"{name} {value}" for name, value in {**self._settings(port), **self.settings}.items()]
        (folder / "valkey.conf").write_text("\n".join(words) + "\n")
        with (folder / "log").open("ab") as log:
            # The kernel ends a server whose test run was killed.
            command = ["setpriv", "--pdeathsig", "KILL", str(self.programs / "valkey-server")]
            self.processes[port] = subprocess.Popen([*command, str(folder / "valkey.conf")], stdout=log, stderr=log)

    def kill(self, port: int) -> None:
        """Kill the server of a port."""
        self.processes[port].kill()
        self.processes[port].wait()

    def wait(self, port: int) -> None:
        """Wait until a server answers."""
        deadline = time.monotonic() + 20
        while is_free(port):
            if time.monotonic() > deadline or self.processes[port].poll() is not None:
                raise AssertionError((self.folder / str(port) / "log").read_text())
            time.sleep(0.01)
        who = "admin" if self.secure else "default"
        assert self.cli(port, "ACL", "WHOAMI") == who

    def socket(self, port: int) -> Path:
        """Path of the Unix socket of a server."""
        return self.folder / str(port) / "valkey.sock"

    def _settings(self, port: int) -> dict[str, str]:
        databases = {"cluster-databases": str(self.databases)} if self.databases > 1 else {}
        common = {
            **databases,
            "bind": "127.0.0.1",
            "dir": str(self.folder / str(port)),
            "unixsocket": str(self.socket(port)),
            "save": '""',
            "appendonly": "no",
            "cluster-enabled": "yes",
            "cluster-node-timeout": "5000",
            "maxmemory": "64mb",
            "repl-backlog-size": "1mb",
            "client-output-buffer-limit": "replica 64mb 32mb 60",
        }
        if self.certificates is None:
            return {**common, "port": str(port)}
        return {
            **common,
            "port": "0",
            "tls-port": str(port),
            "tls-cluster": "yes",
            "tls-replication": "yes",
            "tls-auth-clients": "yes",
            "tls-ca-cert-file": str(self.certificates.ca),
            "tls-cert-file": str(self.certificates.combined),
            "tls-key-file": str(self.certificates.combined),
            "aclfile": str(self.folder / "users.acl"),
            "primaryuser": "admin",
            "primaryauth": PASSWORD,
        }

    @property
    def login(self) -> dict[str, Any]:
        """Connection options of the modules."""
        if self.certificates is None:
            return {}
        return {
            "tls": True,
            "username": "admin",
            "password": PASSWORD,
            "ca_cert": str(self.certificates.ca),
            "client_cert": str(self.certificates.combined),
        }

    def cli(self, port: int, *words: str, check: bool = True) -> str:
        """Run valkey-cli against a port (0: words name the server) and return its output."""
        command = [str(self.programs / "valkey-cli"), "--no-auth-warning"]
        if self.certificates is not None:
            combined = str(self.certificates.combined)
            command += ["--tls", "--cacert", str(self.certificates.ca), "--cert", combined, "--key", combined]
            command += ["--user", "admin", "--pass", PASSWORD]
        command += ["-p", str(port)] if port else []
        found = subprocess.run([*command, *words], capture_output=True, text=True, check=False, env=_environment())
        if check and (found.returncode or found.stdout.startswith(("ERR", "NOAUTH", "WRONGPASS"))):
            raise AssertionError(f"{' '.join(words)}: {found.stdout}{found.stderr}")
        return found.stdout.strip()

    def all(self, *words: str) -> dict[int, str]:
        """Run one command on every server."""
        return {port: self.cli(port, *words) for port in self.ports}

    def witness(self) -> str:
        """Let valkey-cli check the cluster; AssertionError with what it says when it finds a fault."""
        found = self.cli(0, "--cluster", "check", f"127.0.0.1:{self.ports[0]}", check=False)
        assert "[OK] All nodes agree about slots configuration." in found, found
        assert "[OK] All 16384 slots covered." in found, found
        assert "[ERR]" not in found, found
        assert "[WARNING]" not in found, found
        return found

    def nodes(self, hosts: int = 3, ports: Iterable[int] | None = None) -> list[dict[str, Any]]:
        """Return the option `nodes`, the servers dealt out to so many pretended hosts, a zone each."""
        return [
            {"address": "127.0.0.1", "port": port, "host": f"node{index % hosts + 1}", "zone": f"z{index % hosts + 1}"}
            for index, port in enumerate(self.ports if ports is None else ports)
        ]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("VALKEYCLI_", "REDISCLI_"))}
