#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that knocks at TLS servers to see which certificates they show and take."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tls_check
short_description: Check that servers use the certificates that are on disk
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Connects to each server and fails where one shows another certificate than its file has, or does not take the cluster's own.
  - During a rotation of the authority it also shows that servers trust the new one already, or the old one no more.
  - It changes nothing, and sends nothing after the handshake.
options:
  endpoints:
    description: The servers.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name for messages.
        type: str
        required: true
      address:
        description: Address.
        type: str
        required: true
      port:
        description: Port.
        type: int
        required: true
      certificate:
        description: Path on the host of the PEM with the certificate that it is to show.
        type: path
        required: true
      protocol:
        description: How TLS begins.
        type: str
        choices: [tls, postgresql]
        default: tls
      demands:
        description: Whether it refuses clients without a certificate that it trusts.
        type: bool
        default: true
  ca_cert:
    description: Path on the host of the trusted certificates.
    type: path
    required: true
  folder:
    description:
      - Folder on the controller with the authority. During a rotation client certificates are made from it that show what servers trust.
      - None are made where it is empty.
    type: path
    default: ""
  organization:
    description: Organization in the subject of those.
    type: str
    default: ""
  trusted:
    description: PEM of a client certificate that servers must take. Comes from O(folder).
    type: str
    default: ""
  distrusted:
    description: PEM of a client certificate that servers must refuse. Comes from O(folder).
    type: str
    default: ""
  patience:
    description: Seconds to wait until all is as it should be.
    type: float
    default: 15
  fail:
    description: Whether a problem is a failure.
    type: bool
    default: true
requirements:
  - cryptography >= 42 (on the controller, for O(folder))
attributes:
  check_mode:
    description: It changes nothing.
    support: full
  diff_mode:
    description: There is no difference to show.
    support: none
"""

EXAMPLES = r"""
- name: See that PostgreSQL uses its new certificate
  holdfast.persistence.tls_check:
    ca_cert: /etc/ssl/holdfast/ca.crt
    endpoints:
      - name: PostgreSQL
        address: 192.0.2.11
        port: 5432
        protocol: postgresql
        certificate: /etc/ssl/holdfast/postgresql.pem

- name: See that Patroni's REST API uses its new certificate
  holdfast.persistence.tls_check:
    ca_cert: /etc/ssl/holdfast/ca.crt
    endpoints:
      - name: Patroni
        address: 192.0.2.11
        port: 8008
        certificate: /etc/ssl/holdfast/postgresql.pem
"""

RETURN = r"""
problems:
  description: What is wrong, by name of the server.
  type: dict
  returned: always
  sample: {"PostgreSQL (192.0.2.11:5432)": it still trusts the old authority}
"""

import contextlib
import hashlib
import os
import socket
import ssl
import struct
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.tls.endpoints import Endpoint, Knock, Seen, problem

CONNECT_SECONDS = 5
# A server that refuses a certificate says so at once; one that takes it waits for a request.
REFUSAL_SECONDS = 0.5
PAUSE_SECONDS = 0.5
# Message of PostgreSQL's protocol: its length, then the code of SSLRequest.
SSL_REQUEST = struct.pack("!ii", 8, 80877103)


def knock(endpoint: Endpoint, ca_cert: str, client: str) -> Knock:
    """Connect with the client's PEM and see what the server shows, and whether it hangs up."""
    try:
        context = ssl.create_default_context(cafile=ca_cert)
        # The server is told by its certificate itself.
        context.check_hostname = False
        context.load_cert_chain(client)
        with socket.create_connection((endpoint.address, endpoint.port), CONNECT_SECONDS) as plain:
            if endpoint.protocol == "postgresql":
                plain.sendall(SSL_REQUEST)
                if plain.recv(1) != b"S":
                    return Knock("it does not speak TLS")
            with context.wrap_socket(plain) as secure:
                certificate = secure.getpeercert(binary_form=True) or b""
                return Knock("", hashlib.sha256(certificate).hexdigest(), stays(secure))
    except (OSError, ValueError) as error:
        return Knock(" ".join(str(error).split()) or type(error).__name__)


def stays(secure: ssl.SSLSocket) -> bool:
    """Return whether the server keeps the connection: with TLS 1.3 it looks at the client's certificate after the handshake."""
    secure.settimeout(REFUSAL_SECONDS)
    try:
        return bool(secure.recv(1))
    except TimeoutError:
        return True
    except OSError:
        return False


def digest_of(path: str) -> str:
    """Return the digest of the first certificate in a PEM. Raises OSError and ValueError."""
    with open(path, encoding="utf-8") as stream:
        text = stream.read()
    begin, end = text.index(ssl.PEM_HEADER), text.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(text[begin:end])).hexdigest()


def look(endpoint: Endpoint, ca_cert: str, strangers: dict[str, str]) -> str:
    """Return what is wrong with a server, or nothing."""
    try:
        wished = digest_of(endpoint.certificate)
    except (OSError, ValueError) as error:
        return f"{endpoint.certificate} cannot be read ({error}): run the role tls"
    own = knock(endpoint, ca_cert, endpoint.certificate)
    others = {kind: knock(endpoint, ca_cert, path) for kind, path in strangers.items() if not own.error}
    return problem(endpoint, wished, Seen(own, others.get("trusted"), others.get("distrusted")))


@contextlib.contextmanager
def as_files(folder: str, pems: dict[str, str]) -> Iterator[dict[str, str]]:
    """Give PEMs as files that only root can read, for as long as it takes."""
    paths: dict[str, str] = {}
    try:
        for kind, pem in pems.items():
            handle, paths[kind] = tempfile.mkstemp(dir=folder)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(pem)
        yield paths
    finally:
        for path in paths.values():
            os.unlink(path)


def run(module: AnsibleModule) -> dict[str, str]:
    """Look until nothing is wrong or the time is over; return what is wrong, by name."""
    params = module.params
    endpoints = [Endpoint(**element) for element in params["endpoints"]]
    pems = {kind: params[kind] for kind in ("trusted", "distrusted") if params[kind]}
    deadline = time.monotonic() + params["patience"]
    with as_files(module.tmpdir, pems) as paths, ThreadPoolExecutor(max_workers=max(1, len(endpoints))) as workers:
        while True:
            found = list(workers.map(lambda endpoint: look(endpoint, params["ca_cert"], paths), endpoints))
            if not any(found) or time.monotonic() >= deadline:
                break
            time.sleep(PAUSE_SECONDS)
    return {
        f"{endpoint.name} ({endpoint.address}:{endpoint.port})": text
        for endpoint, text in zip(endpoints, found, strict=True)
        if text
    }


def main() -> None:
    """Run the module."""
    endpoint = {
        "name": {"type": "str", "required": True},
        "address": {"type": "str", "required": True},
        "port": {"type": "int", "required": True},
        "certificate": {"type": "path", "required": True},
        "protocol": {"type": "str", "choices": ["tls", "postgresql"], "default": "tls"},
        "demands": {"type": "bool", "default": True},
    }
    module = AnsibleModule(
        argument_spec={
            "endpoints": {"type": "list", "elements": "dict", "required": True, "options": endpoint},
            "ca_cert": {"type": "path", "required": True},
            "folder": {"type": "path", "default": ""},
            "organization": {"type": "str", "default": ""},
            "trusted": {"type": "str", "default": "", "no_log": True},
            "distrusted": {"type": "str", "default": "", "no_log": True},
            "patience": {"type": "float", "default": 15},
            "fail": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    problems = run(module)
    if problems and module.params["fail"]:
        module.fail_json(
            msg="certificates: "
            + "; ".join(f"{name}: {text}" for name, text in problems.items())
            + ". Read the service's journal, then run again",
            problems=problems,
        )
    module.exit_json(changed=False, problems=problems)


if __name__ == "__main__":
    main()
