# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Client of etcd's JSON gateway (the v3 API over HTTPS), by the standard library only.

Protocol: https://etcd.io/docs/v3.5/dev-guide/api_grpc_gateway/ . Keys and values are base64, 64-bit numbers are text,
fields with their default value are left out.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

Answer = TypeVar("Answer")

# Messages of api/v3rpc/rpctypes/error.go.
OLD_TOKEN = ("etcdserver: revision of auth store is old", "etcdserver: invalid auth token")
PASSING = (
    "etcdserver: leader changed",
    "etcdserver: no leader",
    "etcdserver: not leader",
    "etcdserver: request timed out",
    "etcdserver: server stopped",
    "etcdserver: unhealthy cluster",
    "context deadline exceeded",
    "transport is closing",
)
AUTH_OFF = "etcdserver: authentication is not enabled"
WRONG_PASSWORD = "etcdserver: authentication failed, invalid user ID or password"
PAUSE_SECONDS = 0.5


class EtcdError(Exception):
    """etcd could not do what it was asked. endpoint: who was asked; message: what it or the network said."""

    def __init__(self, endpoint: str, message: str) -> None:
        super().__init__(f"{endpoint}: {message}")
        self.endpoint = endpoint
        self.message = message


class UnreachableError(EtcdError):
    """No answer came: refused, timed out, or no TLS between the two."""


@dataclass(frozen=True)
class Connection:
    """Where and how to ask. timeout: seconds for one request."""

    endpoints: tuple[str, ...]
    ca_cert: str
    client_cert: str
    username: str | None = None
    password: str | None = None
    timeout: float = 5.0


def argument_spec() -> dict[str, dict]:
    """Return the options of the documentation fragment `etcd`."""
    return {
        "endpoints": {"type": "list", "elements": "str", "required": True},
        "username": {"type": "str"},
        "password": {"type": "str", "no_log": True},
        "ca_cert": {"type": "path", "required": True},
        "client_cert": {"type": "path", "required": True},
        "timeout": {"type": "float", "default": 5},
    }


def from_params(params: dict) -> Connection:
    """Return the connection that a module's parameters describe."""
    return Connection(
        endpoints=tuple(endpoint.rstrip("/") for endpoint in params["endpoints"]),
        ca_cert=params["ca_cert"],
        client_cert=params["client_cert"],
        username=params["username"],
        password=params["password"],
        timeout=params["timeout"],
    )


class Client:
    """Asks the members in turn until one answers, and renews its token when etcd wants a new one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._token = ""
        # Who answered last is asked first: a dead member costs its timeout once.
        self._answered = ""
        try:
            context = ssl.create_default_context(cafile=connection.ca_cert)
            context.load_cert_chain(connection.client_cert)
        except (OSError, ssl.SSLError) as error:
            files = f"{connection.ca_cert}, {connection.client_cert}"
            raise UnreachableError(connection.endpoints[0], f"cannot use the certificates {files}: {error}") from error
        handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        self._opener = urllib.request.build_opener(*handlers)

    def log_in(self) -> bool:
        """Get a token for the connection's user. Returns whether authentication is on. Raises EtcdError."""
        try:
            self._token = self.token_of(self._connection.username or "", self._connection.password or "")
        except EtcdError as error:
            if AUTH_OFF in error.message:
                return False
            raise
        return True

    def token_of(self, name: str, password: str) -> str:
        """Return a token for a user. Raises EtcdError with WRONG_PASSWORD or AUTH_OFF in its message."""
        answer = self._ask_any("/v3/auth/authenticate", {"name": name, "password": password}, with_token=False)
        return answer["token"]

    def knows(self, name: str, password: str) -> bool:
        """Return whether this is the user's password. Raises EtcdError for anything else than a wrong one."""
        try:
            self.token_of(name, password)
        except EtcdError as error:
            if WRONG_PASSWORD in error.message:
                return False
            raise
        return True

    def ask(self, path: str, body: dict | None = None) -> dict:
        """Ask whichever member answers. Raises EtcdError."""
        try:
            return self._ask_any(path, body or {}, with_token=True)
        except EtcdError as error:
            if not any(message in error.message for message in OLD_TOKEN):
                raise
        self.log_in()
        return self._ask_any(path, body or {}, with_token=True)

    def ask_one(self, endpoint: str, path: str, body: dict | None = None) -> dict:
        """Ask this member and no other. Raises EtcdError."""
        return self._request(endpoint, path, body or {}, with_token=True)

    @contextlib.contextmanager
    def stream(self, path: str, body: dict, idle: float) -> Iterator[Iterator[dict]]:
        """Give the results of a request that does not end, from the member that answered last or the first one that answers.

        The iterator ends when nothing came for `idle` seconds, or the member ended the stream. Raises EtcdError.
        """
        endpoint = self._answered or self._connection.endpoints[0]
        with told_by(endpoint):
            response = self._open(endpoint, path, body, with_token=True, timeout=idle)
        with response:
            yield results_of(response)

    def _ask_any(self, path: str, body: dict, with_token: bool) -> dict:
        def ask(endpoint: str) -> dict:
            answer = self._request(endpoint, path, body, with_token)
            self._answered = endpoint
            return answer

        return first_answer(sorted(self._connection.endpoints, key=lambda each: each != self._answered), ask)

    def _request(self, endpoint: str, path: str, body: dict, with_token: bool) -> dict:
        with told_by(endpoint), self._open(endpoint, path, body, with_token, self._connection.timeout) as response:
            return json.load(response)

    def _open(self, endpoint: str, path: str, body: dict, with_token: bool, timeout: float) -> http.client.HTTPResponse:
        headers = {"Content-Type": "application/json"}
        if with_token and self._token:
            headers["Authorization"] = self._token
        request = urllib.request.Request(endpoint + path, json.dumps(body).encode(), headers, method="POST")
        return self._opener.open(request, timeout=timeout)


@contextlib.contextmanager
def told_by(endpoint: str) -> Iterator[None]:
    """Raise what goes wrong in the block as EtcdError of that member."""
    try:
        yield
    except urllib.error.HTTPError as error:
        raise EtcdError(endpoint, message_of(error.read(), error.code)) from error
    except (TimeoutError, urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise UnreachableError(endpoint, str(getattr(error, "reason", error)) or type(error).__name__) from error


def results_of(lines: Iterable[bytes]) -> Iterator[dict]:
    """Give the result on each line of a stream, until the connection says nothing any more or ends."""
    with contextlib.suppress(TimeoutError, http.client.HTTPException, OSError):
        for line in lines:
            yield json.loads(line).get("result", {})


def message_of(body: bytes, code: int) -> str:
    """Return the message in an error answer of the gateway."""
    try:
        data = json.loads(body)
    except ValueError:
        data = None
    message = (data.get("message") or data.get("error")) if isinstance(data, dict) else None
    return message if isinstance(message, str) else f"HTTP {code}: {body[:200].decode(errors='replace').strip()}"


def first_answer(endpoints: Sequence[str], ask: Callable[[str], dict]) -> dict:
    """Return the first answer, going on to the next endpoint only where one is unreachable.

    Raises UnreachableError with what every endpoint said if none answers, EtcdError as the first that answers says.
    """
    failures = []
    for endpoint in endpoints:
        try:
            return ask(endpoint)
        except UnreachableError as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    raise UnreachableError(", ".join(endpoints), "; ".join(str(failure) for failure in failures))


def patiently(act: Callable[[], Answer], seconds: float) -> Answer:
    """Return what act returns, repeating it for some seconds while the cluster only has no leader at the moment.

    Raises EtcdError at the end of the time, or at once for any other error.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return act()
        except EtcdError as error:
            passing = isinstance(error, UnreachableError) or any(message in error.message for message in PASSING)
            if not passing or time.monotonic() >= deadline:
                raise
        time.sleep(PAUSE_SECONDS)
