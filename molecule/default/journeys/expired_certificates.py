# SPDX-License-Identifier: Apache-2.0
"""All certificates of services are yesterday's: on this machine and on the hosts, of the same keys and names."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from lab_access import TLS, Lab

DAY = datetime.timedelta(days=1)
UNITS = (
    "etcd.service patroni.service haproxy.service pgbouncer.service pgbackrest-server.service"
    " valkey-server@7001.service valkey-server@7002.service"
)


def expired(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a certificate that was valid until yesterday, signed by key of the same authority, as PEM."""
    end = datetime.datetime.now(datetime.UTC) - DAY
    builder = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(certificate.issuer)
        .public_key(certificate.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - 365 * DAY)
        .not_valid_after(end)
    )
    for extension in certificate.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def expire(lab: Lab) -> int:
    """Let every certificate of a service end, start the services anew; return how many there were."""
    folder = lab.secrets / "tls"
    key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    shells = {**lab.hosts, "backup1": lab.backup}
    paths = sorted(folder.glob("hosts/*/*.pem"))
    for path in paths:
        _rewrite(path, key)
        shells[path.parent.name].check_output(
            "printf %s %s > %s", "%s", path.read_text(encoding="utf-8"), f"{TLS}/{path.name}"
        )
    for shell in shells.values():
        shell.check_output(
            f"systemctl restart --no-block $(systemctl list-units --plain --no-legend {UNITS} | cut -d' ' -f1)"
        )
    return len(paths)


def _rewrite(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Replace the certificate in a file of private key and certificate."""
    content = path.read_bytes()
    own = serialization.load_pem_private_key(content, password=None)
    private = own.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + expired(x509.load_pem_x509_certificate(content), key))
