"""What tells one certificate authority from another. No I/O."""

from __future__ import annotations

import hashlib
import ssl


def digests(bundle: str) -> list[str]:
    """Return the SHA-256 digests of the certificates of a PEM bundle, sorted. Raises ValueError where one is no PEM."""
    texts = bundle.split(ssl.PEM_FOOTER)[:-1]
    whole = [text[text.index(ssl.PEM_HEADER) :] + ssl.PEM_FOOTER for text in texts if ssl.PEM_HEADER in text]
    return sorted(hashlib.sha256(ssl.PEM_cert_to_DER_cert(text)).hexdigest() for text in whole)
