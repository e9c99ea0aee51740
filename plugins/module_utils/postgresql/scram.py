# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""PostgreSQL's SCRAM-SHA-256 verifiers (RFC 5802, RFC 7677; src/common/scram-common.c). No I/O.

A verifier made here goes over the wire and into the server's log in place of the password.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

ITERATIONS = 4096
SALT_BYTES = 16
FORM = re.compile(r"SCRAM-SHA-256\$(?P<iterations>\d+):(?P<salt>[^$]+)\$(?P<stored>[^:]+):(?P<server>.+)\Z")


def verifier(password: str, salt: bytes, iterations: int = ITERATIONS) -> str:
    """Return what pg_authid.rolpassword holds for this password.

    Passwords are taken as they are, without SASLprep: that is right for ASCII.
    """
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored = hashlib.sha256(_hmac(salted, b"Client Key")).digest()
    return f"SCRAM-SHA-256${iterations}:{_text(salt)}${_text(stored)}:{_text(_hmac(salted, b'Server Key'))}"


def matches(found: str | None, password: str) -> bool:
    """Return whether a verifier is of this password."""
    match = FORM.match(found or "")
    if match is None:
        return False
    made = verifier(password, base64.b64decode(match["salt"]), int(match["iterations"]))
    return hmac.compare_digest(made, match[0])


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
