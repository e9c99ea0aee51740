# SPDX-License-Identifier: Apache-2.0
"""What HAProxy asks of a member of Patroni before it sends connections: real HAProxy, the rendered checks, an answering member."""

from __future__ import annotations

import contextlib
import csv
import datetime
import http.server
import json
import pathlib
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from ports import free_ports

NOW = datetime.datetime.now(datetime.UTC)


class Authority:
    """A certificate authority of the test."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        made = self._builder(self._name, self._key.public_key(), NOW + datetime.timedelta(days=1))
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.certificate = made.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())
        (folder / "ca.crt").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, end: datetime.datetime
    ) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self._name).public_key(key)
        begin = NOW - datetime.timedelta(hours=1)
        return builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)

    def issue(self, name: str, end: datetime.datetime) -> pathlib.Path:
        """Write key and certificate of a host, for servers and clients, into one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        built = self._builder(subject, key.public_key(), end).add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False
        )
        built = built.add_extension(usages, critical=False).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = self._folder / f"{name}.pem"
        path.write_bytes(private + built.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path


class Member:
    """A member that holds the leader key: its status is 200, and its body says what PostgreSQL is."""

    def __init__(self, port: int, folder: pathlib.Path) -> None:
        self.role = "replica"
        member = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                where = "received_location" if member.role == "replica" else "location"
                told = {
                    "state": "running",
                    "role": member.role,
                    "xlog": {where: 67419584},
                    "patroni": {"name": "node1"},
                }
                body = json.dumps(told).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def do_OPTIONS(self) -> None:
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_words: Any) -> None:
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "node1.pem")
        context.load_verify_locations(folder / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED

        class Server(http.server.ThreadingHTTPServer):
            def finish_request(self, request: Any, client_address: Any) -> None:
                # A handshake that fails is the matter of one check; its thread ends.
                with contextlib.suppress(OSError), context.wrap_socket(request, server_side=True) as link:
                    super().finish_request(link, client_address)

        self._server = Server(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Member:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def backend(rendered: pathlib.Path, folder: pathlib.Path, check_port: int, port: int) -> str:
    """The rendered backend of read-write connections, with node1 on loopback as its only server, and short intervals."""
    text = (rendered / "haproxy.cfg").read_text()
    found = re.search(r"^backend read_write_members\n(?:    .*\n)+", text, re.MULTILINE)
    assert found, text
    kept = []
    for line in found.group().splitlines():
        words = line.split()
        if words[:1] == ["server"]:
            if words[1] == "node1":
                kept.append(f"    server node1 127.0.0.1:{port} verifyhost node1")
        elif words[:1] != ["use-server"]:
            kept.append(line)
    joined = "\n".join(kept)
    joined = re.sub(r"check port \d+", f"check port {check_port}", joined)
    joined = re.sub(r"(ca-file|crt) \S+/(ca\.crt|haproxy\.pem)", rf"\1 {folder}/\2", joined)
    return re.sub(r"\b((?:fast|down)?inter) \d+ms", r"\1 200ms", joined)


@contextlib.contextmanager
def balancer(program: str, folder: pathlib.Path, section: str) -> Iterator[Callable[[], dict[str, str]]]:
    """Run HAProxy; gives a function that tells what it says of node1."""
    front, admin = free_ports(1)[0], folder / "admin.sock"
    (folder / "haproxy.cfg").write_text(
        f"global\n    stats socket {admin} level admin\ndefaults\n    mode tcp\n    timeout connect 1s\n    timeout client 5s\n"
        f"    timeout server 5s\n    timeout check 2s\nfrontend f\n    bind 127.0.0.1:{front}\n"
        f"    default_backend read_write_members\n{section}\n"
    )
    process = subprocess.Popen([program, "-db", "-f", str(folder / "haproxy.cfg")], stderr=subprocess.DEVNULL)

    def told() -> dict[str, str]:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(admin))
            link.sendall(b"show stat\n")
            return next(row for row in csv.DictReader(link.makefile()) if row["svname"] == "node1")

    try:
        awaited(admin.exists, 30)
        yield told
    finally:
        process.terminate()
        process.wait()


def awaited(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come to be"
        time.sleep(0.05)


@pytest.fixture
def authority(tmp_path: pathlib.Path) -> Authority:
    made = Authority(tmp_path)
    made.issue("node1", NOW + datetime.timedelta(days=1))
    return made


def checked(told: dict[str, str]) -> bool:
    """Whether a check has ended: without one a server counts as up and says INI, with `* ` before it while the first one runs."""
    return told["check_status"].startswith("L")


def test_a_leader_that_is_still_in_recovery_gets_no_connection(
    haproxy: str, rendered: pathlib.Path, tmp_path: pathlib.Path, authority: Authority
) -> None:
    authority.issue("haproxy", NOW + datetime.timedelta(days=1))
    port, check = free_ports(2)
    section = backend(rendered, tmp_path, check, port)
    with Member(check, tmp_path) as member, balancer(haproxy, tmp_path, section) as told:
        awaited(lambda: checked(told()), 30)
        assert told()["status"].startswith("DOWN"), told()
        for role in ("primary", "master"):
            member.role = role
            awaited(lambda: told()["status"] == "UP", 30)
            member.role = "replica"
            awaited(lambda: told()["status"] == "DOWN", 30)


def test_a_certificate_that_has_run_out_shows_while_haproxy_runs(
    haproxy: str, rendered: pathlib.Path, tmp_path: pathlib.Path, authority: Authority
) -> None:
    """With a resumed TLS session a member would look at the certificate only when HAProxy starts anew."""
    # A certificate knows whole seconds only.
    end = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=8)).replace(microsecond=0)
    authority.issue("haproxy", end)
    port, check = free_ports(2)
    section = backend(rendered, tmp_path, check, port)
    with Member(check, tmp_path) as member, balancer(haproxy, tmp_path, section) as told:
        member.role = "primary"
        awaited(lambda: told()["status"] == "UP" and checked(told()), 7)
        awaited(lambda: told()["status"] == "DOWN", 20)
        assert datetime.datetime.now(datetime.UTC) > end
