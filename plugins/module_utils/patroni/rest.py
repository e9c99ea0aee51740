# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""HTTPS client for Patroni's REST API: mutual TLS, the server's certificate is always verified."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from typing import Any


class PatroniError(Exception):
    """A request to Patroni failed.

    Parameters: url; found, what happened; remedy, what to do next; status, the HTTP status where there was an answer.
    """

    def __init__(self, url: str, found: str, remedy: str, status: int | None = None) -> None:
        super().__init__(f"{url}: {found}. {remedy}")
        self.url = url
        self.found = found
        self.remedy = remedy
        self.status = status


class UntrustedError(PatroniError):
    """The member's certificate is not good: waiting doesn't help."""


class Client:
    """One Patroni member.

    Parameters: url, for example https://192.0.2.11:8008; ca_cert and client_cert, paths of PEM files (client_cert holds the key
    and the certificate); timeout of each request in seconds.
    Raises PatroniError where the files cannot be read.
    """

    def __init__(self, url: str, ca_cert: str, client_cert: str, timeout: float) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout
        try:
            context = ssl.create_default_context(cafile=ca_cert)
            context.load_cert_chain(client_cert)
        except (OSError, ssl.SSLError) as error:
            raise PatroniError(
                self.url,
                f"cannot load {ca_cert} and {client_cert}: {error}",
                "Run the role tls, or correct ca_cert and client_cert",
            ) from error
        # No proxy of the environment: members are reached directly.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def get(self, path: str) -> Any:
        """Return the JSON answer to GET. Raises PatroniError for any status but 200 and for no answer."""
        return self._request("GET", path, None, frozenset())

    def get_state(self, path: str = "/patroni") -> Any:
        """Return the JSON answer to GET also where the member says 503, as it does while PostgreSQL doesn't run."""
        return self._request("GET", path, None, frozenset({503}))

    def patch(self, path: str, body: Any) -> Any:
        """Return the JSON answer to PATCH with that body. Raises PatroniError as get()."""
        return self._request("PATCH", path, body, frozenset())

    def post(self, path: str, body: Any, timeout: float) -> str:
        """Return the text that answers POST with that body, within timeout seconds. Raises PatroniError as get()."""
        return self._exchange("POST", path, body, frozenset(), timeout).decode(errors="replace").strip()

    def _request(self, method: str, path: str, body: Any, also: frozenset[int]) -> Any:
        text = self._exchange(method, path, body, also, self._timeout)
        try:
            return json.loads(text)
        except ValueError as error:
            raise PatroniError(
                self.url + path, f"answered no JSON: {text[:200]!r}", "Is this the address of Patroni's REST API?"
            ) from error

    def _exchange(self, method: str, path: str, body: Any, also: frozenset[int], timeout: float) -> bytes:
        url = self.url + path
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, method=method)
        if data is not None:
            request.add_header("Content-Type", "application/json")
        try:
            with self._opener.open(request, timeout=timeout) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            text = error.read()
            if error.code not in also:
                raise _refused(url, method, error.code, text) from error
            return bytes(text)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
                raise UntrustedError(
                    url, f"its certificate is not trusted: {_reason(error)}", "Run the role tls, or correct ca_cert"
                ) from error
            raise PatroniError(
                url, f"no answer: {_reason(error)}", "Is Patroni running there (journalctl -u patroni)?"
            ) from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error or type(error).__name__)


def _refused(url: str, method: str, status: int, text: bytes) -> PatroniError:
    remedies = {
        403: "The member refuses this address or certificate: run it on a host of the group postgresql",
        409: "Somebody else changed the configuration at the same moment: run again",
        502: "The configuration is not in etcd: is the cluster bootstrapped?",
        503: "The configuration is not in etcd, or etcd can't be reached: is the cluster bootstrapped?",
    }
    remedy = remedies.get(status, "See the member's journal (journalctl -u patroni)")
    return PatroniError(
        url, f"{method} answered {status}: {text[:200].decode(errors='replace').strip()}", remedy, status
    )
