# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Connections to Valkey servers: the options that all modules share, one client, and many clients at once.

The library `valkey` is used where it is installed, else `redis`: both have the same connection class.
"""

from __future__ import annotations

import ssl
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import endpoint_text

library: Any = None
LIBRARY_ERROR: str | None = None
try:
    import valkey

    library = valkey
except ImportError:
    try:
        import redis

        library = redis
    except ImportError:
        LIBRARY_ERROR = traceback.format_exc()

Command = Sequence[Any]

MAX_CONNECTING = 16
PIPELINE_CHUNK = 500


class Endpoint(NamedTuple):
    """Where a server listens for clients."""

    address: str
    port: int

    def __str__(self) -> str:
        return endpoint_text(self.address, self.port)


class ValkeyError(Exception):
    """A server could not do what was asked.

    endpoint: which server; problem: what it said or what failed; remedy: what a person does next.
    """

    def __init__(self, endpoint: Endpoint, problem: str, remedy: str = "") -> None:
        super().__init__(f"{endpoint}: {problem}" + (f". {remedy}" if remedy else ""))
        self.endpoint = endpoint
        self.problem = problem
        self.remedy = remedy


class UnreachableError(ValkeyError):
    """No connection, or the connection broke."""


class RefusedError(ValkeyError):
    """The server doesn't let this user in, or the certificates don't fit."""


class ReplyError(ValkeyError):
    """The server answered a command with an error. code: its first word, such as ERR or CLUSTERDOWN."""

    def __init__(self, endpoint: Endpoint, command: Command, problem: str) -> None:
        super().__init__(endpoint, f"{_name(command)}: {problem}")
        self.command = tuple(command)
        self.code = problem.split(" ", 1)[0]


def _name(command: Command) -> str:
    """The command without its arguments' values, which may be secret or long."""
    words = [str(word) for word in command[:2]]
    return " ".join(words if words[0].upper() in ("CLUSTER", "CONFIG", "ACL", "CLIENT") else words[:1])


@dataclass(frozen=True)
class Options:
    """How to reach servers.

    server_name: what certificates are checked for in place of the address. timeout: seconds for a connection and for each reply.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca_cert: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    server_name: str | None = None
    timeout: float = 10.0


def argument_spec() -> dict[str, Any]:
    """Return the module options of the doc fragment holdfast.persistence.valkey, without host and port."""
    return {
        "username": {"type": "str"},
        "password": {"type": "str", "no_log": True},
        "tls": {"type": "bool", "default": False},
        "ca_cert": {"type": "path"},
        "client_cert": {"type": "path"},
        "client_key": {"type": "path", "no_log": False},
        "server_name": {"type": "str"},
        "timeout": {"type": "float", "default": 10.0},
    }


def server_argument_spec() -> dict[str, Any]:
    """Return the options host and port of the doc fragment holdfast.persistence.valkey.server."""
    return {"host": {"type": "str", "default": "127.0.0.1"}, "port": {"type": "int", "default": 6379}}


def options_from(params: Mapping[str, Any]) -> Options:
    """Return the options out of a module's parameters."""
    return Options(**{name: params[name] for name in argument_spec()})


class Client:
    """One connection. Replies are text unless a method says otherwise; errors are ValkeyError."""

    def __init__(self, endpoint: Endpoint, options: Options) -> None:
        """Connect and log in. Raises UnreachableError or RefusedError."""
        self.endpoint = endpoint
        self._connection = _connection(endpoint, options)
        with _Translated(endpoint):
            self._connection.connect()

    def close(self) -> None:
        """Close the connection."""
        self._connection.disconnect()

    def send(self, commands: Iterable[Command]) -> None:
        """Send commands without waiting; as many receive calls must follow. Raises UnreachableError."""
        with _Translated(self.endpoint):
            self._connection.send_packed_command(self._connection.pack_commands(commands))

    def receive_raw(self) -> Any:
        """Read one reply, strings as bytes; an error reply is returned as an exception of the library.

        Raises UnreachableError.
        """
        with _Translated(self.endpoint):
            try:
                return self._connection.read_response()
            except library.exceptions.ResponseError as error:
                return error

    def receive(self, command: Command) -> Any:
        """Read the reply of a command that was sent; an error reply comes as ReplyError. Raises UnreachableError."""
        reply = self.receive_raw()
        if isinstance(reply, Exception):
            return ReplyError(self.endpoint, command, str(reply))
        return as_text(reply)

    def call(self, *command: Any) -> Any:
        """Do one command and return its reply. Raises ReplyError for an error reply, UnreachableError."""
        self.send([command])
        return checked(self.receive(command))

    def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Do many commands in order; an error reply stands in its place as ReplyError. Raises UnreachableError."""
        replies: list[Any] = []
        for start in range(0, len(commands), PIPELINE_CHUNK):
            chunk = commands[start : start + PIPELINE_CHUNK]
            self.send(chunk)
            replies.extend(self.receive(command) for command in chunk)
        return replies


def checked(reply: Any) -> Any:
    """Return the reply. Raises it when it is a ReplyError."""
    if isinstance(reply, ReplyError):
        raise reply
    return reply


def as_text(reply: Any) -> Any:
    """Return a reply with bytes as text at every depth; bytes that are no UTF-8 survive as surrogates."""
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "surrogateescape")
    if isinstance(reply, list):
        return [as_text(item) for item in reply]
    return reply


def _connection(endpoint: Endpoint, options: Options) -> Any:
    common = {
        "host": endpoint.address,
        "port": endpoint.port,
        "username": options.username,
        "password": options.password,
        "socket_timeout": options.timeout,
        "socket_connect_timeout": options.timeout,
    }
    if not options.tls:
        return library.connection.Connection(**common)
    kind = _named(options.server_name) if options.server_name else library.connection.SSLConnection
    return kind(
        **common,
        ssl_cert_reqs="required",
        ssl_check_hostname=True,
        ssl_ca_certs=options.ca_cert,
        ssl_certfile=options.client_cert,
        ssl_keyfile=options.client_key or options.client_cert,
    )


def _named(name: str) -> Any:
    """Return a class of connections that check certificates for a name, wherever they lead to.

    The library has no option for this: it checks for the host that it connects to (SSLConnection of valkey 6.2 and redis 5 to 7).
    """

    base: Any = library.connection.SSLConnection

    def wrap(self: Any, sock: Any) -> Any:
        address, self.host = self.host, name
        try:
            return base._wrap_socket_with_ssl(self, sock)
        finally:
            self.host = address

    return type("Named", (base,), {"_wrap_socket_with_ssl": wrap})


class _Translated:
    """Turns the library's exceptions into ours."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        if error is None or isinstance(error, ValkeyError):
            return
        raised = _translate(self._endpoint, error)
        if raised is not None:
            raise raised from error


def _translate(endpoint: Endpoint, error: BaseException) -> ValkeyError | None:
    exceptions = library.exceptions
    problem = str(error)
    if isinstance(error, exceptions.AuthenticationError) or "WRONGPASS" in problem or "NOAUTH" in problem:
        return RefusedError(endpoint, f"login refused: {problem}", "Check username and password")
    if isinstance(error, (ssl.SSLError, exceptions.ConnectionError)) and _is_tls(error):
        return RefusedError(
            endpoint, f"TLS failed: {problem}", "Check ca_cert, client_cert and the server's certificate"
        )
    if isinstance(error, (exceptions.TimeoutError, TimeoutError)):
        return UnreachableError(endpoint, "no answer in time", "Check that the server runs and that its port is open")
    if isinstance(error, (exceptions.ConnectionError, OSError)):
        return UnreachableError(
            endpoint, f"unreachable: {problem}", "Check that the server runs and that its port is open"
        )
    if isinstance(error, exceptions.ResponseError):
        return RefusedError(endpoint, f"login refused: {problem}", "Check username, password and the user's ACL")
    return None


def _is_tls(error: BaseException) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            return True
        seen = seen.__cause__ or seen.__context__
    return "SSL" in str(error) or "CERTIFICATE" in str(error).upper()


class Fleet:
    """Clients of many servers, kept open, asked all at once: a command goes to all before the first reply is read."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._clients: dict[Endpoint, Client] = {}

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_details: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def connect(self, endpoints: Iterable[Endpoint]) -> dict[Endpoint, ValkeyError]:
        """Connect to servers that aren't connected yet, several at once. Returns the errors by endpoint."""
        missing = [endpoint for endpoint in dict.fromkeys(endpoints) if endpoint not in self._clients]
        if not missing:
            return {}
        with ThreadPoolExecutor(max_workers=min(MAX_CONNECTING, len(missing))) as pool:
            results = list(pool.map(self._try_connect, missing))
        self._clients.update({r.endpoint: r for r in results if isinstance(r, Client)})
        return {r.endpoint: r for r in results if isinstance(r, ValkeyError)}

    def _try_connect(self, endpoint: Endpoint) -> Client | ValkeyError:
        try:
            return Client(endpoint, self.options)
        except ValkeyError as error:
            return error

    def client(self, endpoint: Endpoint) -> Client:
        """Return the client of a server, connecting if need be. Raises UnreachableError or RefusedError."""
        if endpoint not in self._clients:
            self._clients[endpoint] = Client(endpoint, self.options)
        return self._clients[endpoint]

    def drop(self, endpoint: Endpoint) -> None:
        """Close the connection to one server; the next use connects again."""
        client = self._clients.pop(endpoint, None)
        if client is not None:
            client.close()

    def each(self, requests: Mapping[Endpoint, Sequence[Command]]) -> dict[Endpoint, list[Any]]:
        """Do each server's commands, all servers at once. Error replies stand in their places as ReplyError.

        Raises UnreachableError or RefusedError for the first server that fails.
        """
        results: dict[Endpoint, list[Any]] = {endpoint: [] for endpoint in requests}
        for start in range(0, max((len(c) for c in requests.values()), default=0), PIPELINE_CHUNK):
            chunks = {e: c[start : start + PIPELINE_CHUNK] for e, c in requests.items() if len(c) > start}
            for endpoint, commands in chunks.items():
                self._guarded(endpoint, partial(Client.send, commands=commands))
            for endpoint, commands in chunks.items():
                receiving = (partial(Client.receive, command=command) for command in commands)
                results[endpoint] += [self._guarded(endpoint, receive) for receive in receiving]
        return results

    def _guarded(self, endpoint: Endpoint, action: Callable[[Client], Any]) -> Any:
        try:
            return action(self.client(endpoint))
        except ValkeyError:
            # Replies of other servers are still on their way: none of these connections can be used again.
            self.close()
            raise

    def all(self, endpoints: Iterable[Endpoint], *command: Any) -> dict[Endpoint, Any]:
        """Do one command on many servers at once. Raises the first error, an error reply too."""
        replies = self.each({endpoint: [command] for endpoint in endpoints})
        return {endpoint: checked(reply) for endpoint, [reply] in replies.items()}
