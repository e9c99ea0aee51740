# SPDX-License-Identifier: Apache-2.0
"""Object stores on this machine for tests of what is carried off site: S3 (s3rver) and Azure Blob (Azurite), over HTTPS.

Both come from npm into `.cache/object-stores`; nothing of them is part of the collection.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import hmac
import http.client
import ipaddress
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".cache/object-stores"
PACKAGES = ["s3rver@3.7.1", "azurite@3.37.0"]
BUCKET = "backups"
SECOND_BUCKET = "backups-elsewhere"
S3_KEY = "S3RVER"
# The account and the key that every Azurite has.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
S3_PORT, AZURE_PORT = 5444, 10000
START_SECONDS = 60


@dataclass(frozen=True)
class Stores:
    """Running stores: the address both listen on, their ports, and the certificate that signs theirs."""

    address: str
    s3_port: int
    azure_port: int
    ca: str


def install() -> None:
    """Have the packages."""
    if all((FOLDER / "node_modules/.bin" / name).exists() for name in ("s3rver", "azurite-blob")):
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(FOLDER), *PACKAGES], check=True, timeout=600
    )


@contextlib.contextmanager
def running(address: str, folder: Path, s3_port: int = S3_PORT, azure_port: int = AZURE_PORT) -> Iterator[Stores]:
    """Give both stores, empty, in the block. Parameters: address to listen on; folder for data and certificates."""
    install()
    ca = _certificates(address, folder)
    binaries = FOLDER / "node_modules/.bin"
    commands: list[list[str | Path]] = [
        [
            *(binaries / "s3rver", "-d", folder / "s3", "-a", address, "-p", str(s3_port), "--key", folder / "key.pem"),
            *("--cert", folder / "cert.pem", "--no-vhost-buckets"),
            *("--configure-bucket", BUCKET, "--configure-bucket", SECOND_BUCKET),
        ],
        [
            *(
                binaries / "azurite-blob",
                "--blobHost",
                address,
                "--blobPort",
                str(azure_port),
                "--location",
                folder / "az",
            ),
            *("--cert", folder / "cert.pem", "--key", folder / "key.pem", "--silent", "--skipApiVersionCheck"),
        ],
    ]
    (folder / "s3").mkdir()
    with contextlib.ExitStack() as stack:
        for name, command in zip(("s3", "azure"), commands, strict=True):
            log = stack.enter_context((folder / f"{name}.log").open("w"))
            process = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log))
            stack.callback(process.terminate)
        for port in (s3_port, azure_port):
            _wait(address, port, folder)
        _make_container(address, azure_port, folder)
        yield Stores(address, s3_port, azure_port, ca)


def _certificates(address: str, folder: Path) -> str:
    """Write key and certificate of a store; return the certificate that signs it, which is the same one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "object stores of a test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address)), x509.DNSName(address)]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    text = certificate.public_bytes(serialization.Encoding.PEM).decode()
    (folder / "cert.pem").write_text(text)
    return text


def _wait(address: str, port: int, folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection((address, port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() >= deadline:
                logs = {path.name: path.read_text()[-2000:] for path in folder.glob("*.log")}
                raise TimeoutError(f"{address}:{port} does not answer: {logs}") from None
            time.sleep(0.2)


def _make_container(address: str, port: int, folder: Path) -> None:
    """Make the container with the account's own signature (Shared Key): rclone and pgBackRest expect it to be there."""
    context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    date = datetime.datetime.now(datetime.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    resource = f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{BUCKET}\nrestype:container"
    text = f"PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:2019-12-12\n{resource}"
    signature = base64.b64encode(hmac.new(base64.b64decode(AZURE_KEY), text.encode(), hashlib.sha256).digest()).decode()
    connection = http.client.HTTPSConnection(address, port, context=context, timeout=20)
    headers = {
        "x-ms-date": date,
        "x-ms-version": "2019-12-12",
        "Authorization": f"SharedKey {AZURE_ACCOUNT}:{signature}",
        "Content-Length": "0",
    }
    connection.request("PUT", f"/{AZURE_ACCOUNT}/{BUCKET}?restype=container", headers=headers)
    answer = connection.getresponse()
    if answer.status not in (201, 409):
        raise RuntimeError(f"Azurite makes no container: {answer.status} {answer.read()[:500]!r}")
