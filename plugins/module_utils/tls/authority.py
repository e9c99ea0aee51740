# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What tells one certificate authority from another. No I/O."""

from __future__ import annotations

import hashlib
from ssl import PEM_FOOTER, PEM_HEADER, PEM_cert_to_DER_cert


def digests(bundle: str) -> list[str]:
    """Return the SHA-256 digests of the certificates of a PEM bundle, sorted. Raises ValueError where one is not PEM."""
    texts = bundle.split(PEM_FOOTER)[:-1]
    whole = [text[text.index(PEM_HEADER) :] + PEM_FOOTER for text in texts if PEM_HEADER in text]
    return sorted(hashlib.sha256(PEM_cert_to_DER_cert(text)).hexdigest() for text in whole)
