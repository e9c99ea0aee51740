# SPDX-License-Identifier: Apache-2.0
"""Every port of every service refuses strangers: without TLS, without a certificate, with one of another authority.

Each refusal stands beside a control: at the same port the cluster's own client is served, so that a port on which nobody
listens, or a knock that nobody would understand, cannot pass for a refusal.
"""

from __future__ import annotations

import datetime
import json
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .conftest import Lab

PROBE = Path(__file__).with_name("probe.py")

# Port, what it is, and how to begin talking to it.
DOORS = [
    (2379, "etcd-client", "http:/version"),
    (2380, "etcd-peer", "http:/version"),
    (5432, "postgresql", "postgresql"),
    (8008, "patroni", "http:/cluster"),
    (6432, "pgbouncer", "postgresql"),
    (5000, "read-write", "postgresql"),
    (5001, "read-only", "postgresql"),
    (5002, "synchronous", "postgresql"),
    (7000, "statistics", "http:/"),
    (7001, "valkey-first", "valkey"),
    (7002, "valkey-second", "valkey"),
    (17001, "bus-first", "bus"),
    (17002, "bus-second", "bus"),
]
# pgBackRest speaks a protocol of its own, and refuses by the name in the certificate only after the handshake.
OTHER_DOORS = {8432}
STRANGERS = ["plain", "anonymous", "stranger"]
PLACES = ["node1", "node2", "node3"]
Knock = tuple[str, int, str]


def make_stranger() -> dict[str, str]:
    """Return a client certificate that looks like the application's, by an authority made up here."""
    now = datetime.datetime.now(datetime.UTC)

    def issue(
        name: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey, is_ca: bool
    ) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .sign(issuer_key, hashes.SHA256())
        )

    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _key in range(2))
    certificate = issue("orderapp", key, "Another authority", authority_key, is_ca=False)
    return {
        "certificate": certificate.public_bytes(serialization.Encoding.PEM).decode(),
        "key": key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    }


@pytest.fixture(scope="session")
def verdicts(lab: Lab) -> dict[tuple[str, int, str], str]:
    """What happened to every client at every port of every host, knocking from another host of the lab."""
    certificate, key = lab.client_certificate
    found: dict[tuple[str, int, str], str] = {}
    for place, origin in zip(PLACES, [*PLACES[1:], PLACES[0]], strict=True):
        asked = [(port, protocol, manner) for port, _name, protocol in DOORS for manner in [*STRANGERS, "application"]]
        question = {
            "ca": lab.certificate_authority.read_text(),
            "certificates": {
                "application": {"certificate": certificate.read_text(), "key": key.read_text()},
                "stranger": make_stranger(),
            },
            "knocks": [[lab.addresses[place], port, protocol, manner] for port, protocol, manner in asked],
        }
        answered = subprocess.run(
            ["docker", "exec", "-i", lab.hosts[origin].backend.hostname, "python3", "-c", PROBE.read_text()],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert answered.returncode == 0, answered.stderr
        for (port, _protocol, manner), verdict in zip(asked, json.loads(answered.stdout), strict=True):
            found[place, port, manner] = verdict
    return found


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("port", [pytest.param(port, id=f"{port}-{name}") for port, name, _protocol in DOORS])
def test_the_clusters_own_client_is_served(verdicts: dict[tuple[str, int, str], str], place: str, port: int) -> None:
    assert verdicts[place, port, "application"] == "served"


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("port", [pytest.param(port, id=f"{port}-{name}") for port, name, _protocol in DOORS])
def test_a_stranger_is_refused(verdicts: dict[tuple[str, int, str], str], place: str, port: int, stranger: str) -> None:
    verdict = verdicts[place, port, stranger]
    assert verdict != "served"
    assert verdict not in {"NOBODY LISTENS", "NO ANSWER"}


def test_the_doors_are_all_there_are(lab: Lab) -> None:
    known = {port for port, _name, _protocol in DOORS}
    for name, host in lab.hosts.items():
        open_ports = set()
        for line in host.check_output("ss -Htln").splitlines():
            address, _colon, port = line.split()[3].rpartition(":")
            if not address.startswith(("127.", "[::1]")):
                open_ports.add(int(port))
        assert open_ports == known | OTHER_DOORS, name
