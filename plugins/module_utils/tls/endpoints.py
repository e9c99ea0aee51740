# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What a TLS server showed and took, and what is wrong with it. No I/O."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Endpoint:
    """A server to knock at. protocol: `tls`, or `postgresql`, where the client asks for TLS first (SSLRequest).

    certificate: path of the PEM that it is to show; demands: whether it refuses clients without a certificate that it trusts.
    """

    name: str
    address: str
    port: int
    certificate: str
    protocol: str = "tls"
    demands: bool = True


@dataclass(frozen=True)
class Knock:
    """What came of one connection. error: why there is none; shown: digest of the server's certificate; taken: the client's was."""

    error: str = ""
    shown: str = ""
    taken: bool = False


@dataclass(frozen=True)
class Seen:
    """All knocks at one endpoint. trusted and distrusted are None where there was no such certificate to try."""

    own: Knock
    trusted: Knock | None = None
    distrusted: Knock | None = None


def problem(endpoint: Endpoint, wished: str, seen: Seen) -> str:
    """Return what is wrong, or nothing.

    Parameters: wished, digest of the certificate that it is to show.
    """
    if seen.own.error:
        return f"a client of the cluster cannot connect: {seen.own.error}"
    if seen.own.shown != wished:
        return f"it shows another certificate than the one in {endpoint.certificate}"
    if not seen.own.taken:
        return "it refuses the cluster's own certificate"
    return _trust_problem(seen) if endpoint.demands else ""


def _trust_problem(seen: Seen) -> str:
    if seen.trusted is not None and not seen.trusted.taken:
        return "it does not trust the new authority yet" + (f" ({seen.trusted.error})" if seen.trusted.error else "")
    if seen.distrusted is not None and seen.distrusted.taken:
        return "it still trusts the old authority"
    return ""
