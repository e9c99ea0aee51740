# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Users and roles of etcd: what there is, what is wished, the requests between the two. No I/O."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

ROOT = "root"
CHANGE_PASSWORD = "/v3/auth/user/changepw"
# etcd api/authpb/auth.proto: Permission.Type; the gateway leaves out READ, the default.
PERMISSIONS = {"read": "READ", "write": "WRITE", "readwrite": "READWRITE"}


@dataclass(frozen=True, order=True)
class Permission:
    """A right on the keys from key (included) to range_end (not included). kind: READ, WRITE, READWRITE."""

    key: str
    range_end: str
    kind: str


@dataclass(frozen=True)
class User:
    """A wished user. Its role has its name and exactly these permissions."""

    name: str
    password: str = field(repr=False)
    permissions: tuple[Permission, ...] = ()


@dataclass(frozen=True)
class State:
    """What etcd has. known_passwords: users whose wished password was seen to work; users: roles by name."""

    enabled: bool = False
    users: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    roles: Mapping[str, tuple[Permission, ...]] = field(default_factory=dict)
    known_passwords: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Step:
    """One request to the gateway, and what it does in words without secrets."""

    text: str
    path: str
    body: Mapping[str, object] = field(repr=False)


def prefix(path: str, kind: str) -> Permission:
    """Return the permission on all keys that begin with path (etcd clientv3.GetPrefixRangeEnd).

    Raises ValueError for a kind that is none of PERMISSIONS, and for an empty path.
    """
    if kind not in PERMISSIONS:
        raise ValueError(f"permission {kind!r} is none of {', '.join(PERMISSIONS)}")
    if not path:
        raise ValueError("the prefix of a permission is empty, which would be all keys")
    end = bytearray(path.encode())
    while end and end[-1] == 0xFF:
        end.pop()
    end[-1] += 1
    return Permission(encode(path.encode()), encode(bytes(end)), PERMISSIONS[kind])


def encode(raw: bytes) -> str:
    """Return bytes as the gateway writes them."""
    return base64.b64encode(raw).decode()


def parse_permissions(answer: Mapping) -> tuple[Permission, ...]:
    """Return the permissions in an answer of /v3/auth/role/get."""
    found = (
        Permission(item.get("key", ""), item.get("range_end", ""), item.get("permType", "READ"))
        for item in answer.get("perm", [])
    )
    return tuple(sorted(found))


def plan(root_password: str, users: Iterable[User], state: State, absent: Iterable[str] = ()) -> list[Step]:
    """Return the requests that lead from state to the wish; absent: users to remove.

    Authentication is turned on last. The password of root changes at the end, too: with it etcd forgets who asks.
    """
    wished = [User(ROOT, root_password), *users]
    steps = []
    for user in wished:
        steps += _role_steps(user, state)
        steps += _user_steps(user, state)
    for name in absent:
        if name in state.users:
            steps.append(Step(f"remove user {name}", "/v3/auth/user/delete", {"name": name}))
        if name in state.roles:
            steps.append(Step(f"remove role {name}", "/v3/auth/role/delete", {"role": name}))
    if state.enabled:
        steps.sort(key=lambda step: step.path == CHANGE_PASSWORD and step.body["name"] == ROOT)
    else:
        steps.append(Step("turn authentication on", "/v3/auth/enable", {}))
    return steps


def _role_steps(user: User, state: State) -> list[Step]:
    steps = []
    if user.name not in state.roles:
        steps.append(Step(f"add role {user.name}", "/v3/auth/role/add", {"name": user.name}))
    if user.name == ROOT:
        # May do everything, whatever its role says.
        return steps
    found = set(state.roles.get(user.name, ()))
    for right in sorted(found - set(user.permissions)):
        body = {"role": user.name, "key": right.key, "range_end": right.range_end}
        steps.append(Step(f"revoke {_show(right)} from role {user.name}", "/v3/auth/role/revoke", body))
    for right in sorted(set(user.permissions) - found):
        rights = {"permType": right.kind, "key": right.key, "range_end": right.range_end}
        grant = {"name": user.name, "perm": rights}
        steps.append(Step(f"grant {_show(right)} to role {user.name}", "/v3/auth/role/grant", grant))
    return steps


def _user_steps(user: User, state: State) -> list[Step]:
    steps = []
    credentials: dict[str, object] = {"name": user.name, "password": user.password}
    if user.name not in state.users:
        steps.append(Step(f"add user {user.name}", "/v3/auth/user/add", credentials))
    elif user.name not in state.known_passwords:
        steps.append(Step(f"change the password of user {user.name}", CHANGE_PASSWORD, credentials))
    roles = state.users.get(user.name, ())
    if user.name not in roles:
        body = {"user": user.name, "role": user.name}
        steps.append(Step(f"grant role {user.name} to user {user.name}", "/v3/auth/user/grant", body))
    for role in roles:
        if role != user.name:
            body = {"name": user.name, "role": role}
            steps.append(Step(f"revoke role {role} from user {user.name}", "/v3/auth/user/revoke", body))
    return steps


def _show(right: Permission) -> str:
    return f"{right.kind} on {base64.b64decode(right.key).decode(errors='replace')}*"
