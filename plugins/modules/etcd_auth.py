#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that keeps etcd's users, roles and authentication as declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_auth
short_description: Keep etcd's users and roles as declared, and its authentication on
version_added: 0.1.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Adds the user C(root) and the declared users, each with a role of its own name that has exactly the declared
    permissions, corrects passwords and permissions that differ, and turns authentication on at last.
  - Other users and roles are left alone.
  - A run that was killed half way is completed by the next one.
  - Runs on a host that reaches the members, for one host of the cluster.
options:
  root_password:
    description: Password of the user C(root).
    type: str
    required: true
  previous_root_passwords:
    description: Passwords that C(root) may have instead, while it rotates. They are replaced by O(root_password).
    type: list
    elements: str
    default: []
  absent_users:
    description: Users to remove, with the roles of their names.
    type: list
    elements: str
    default: []
  users:
    description: The other users.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the user and of its role.
        type: str
        required: true
      password:
        description: Password.
        type: str
        required: true
      permissions:
        description: What the role allows.
        type: list
        elements: dict
        default: []
        suboptions:
          prefix:
            description: Beginning of the keys.
            type: str
            required: true
          kind:
            description: The right.
            type: str
            choices: [read, write, readwrite]
            default: readwrite
  patience:
    description: Seconds to wait for a cluster that has no leader at the moment.
    type: float
    default: 30
extends_documentation_fragment:
  - holdfast.persistence.etcd
attributes:
  check_mode:
    description: Says what would be done. A cluster that does not answer yet counts as one without users.
    support: full
  diff_mode:
    description: Not there; RV(steps) says everything, without secrets.
    support: none
"""

EXAMPLES = r"""
- name: Keep the users of etcd
  holdfast.persistence.etcd_auth:
    endpoints: [https://192.0.2.11:2379, https://192.0.2.12:2379, https://192.0.2.13:2379]
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/etcd-client.pem
    root_password: "{{ vault_etcd_root_password }}"
    users:
      - name: patroni
        password: "{{ vault_etcd_patroni_password }}"
        permissions:
          - prefix: /service/example/
  run_once: true

- name: Give root a new password, as long as the old one still holds somewhere
  holdfast.persistence.etcd_auth:
    endpoints: [https://192.0.2.11:2379, https://192.0.2.12:2379, https://192.0.2.13:2379]
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/etcd-client.pem
    root_password: "{{ vault_etcd_root_password }}"
    previous_root_passwords: ["{{ vault_etcd_previous_root_password }}"]
    users: []
  run_once: true
"""

RETURN = r"""
steps:
  description: What was done, in its order; in check mode what would be done.
  type: list
  elements: str
  returned: always
  sample: [add user root, turn authentication on]
"""

import dataclasses

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.access import (
    ROOT,
    State,
    User,
    parse_permissions,
    plan,
    prefix,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.client import (
    WRONG_PASSWORD,
    Client,
    Connection,
    EtcdError,
    UnreachableError,
    argument_spec,
    from_params,
    patiently,
)


def to_users(params: dict) -> list[User]:
    """Return the wished users. Raises ValueError for a permission that makes no sense."""
    return [
        User(
            element["name"],
            element["password"],
            tuple(prefix(right["prefix"], right["kind"]) for right in element["permissions"]),
        )
        for element in params["users"]
    ]


def find_client(connection: Connection, passwords: list[str]) -> Client:
    """Return a client with the first password of root that etcd takes. Raises EtcdError."""
    for password in passwords[:-1]:
        client = Client(dataclasses.replace(connection, password=password))
        try:
            client.log_in()
        except EtcdError as error:
            if WRONG_PASSWORD not in error.message:
                raise
        else:
            return client
    return Client(dataclasses.replace(connection, password=passwords[-1]))


def read_state(client: Client, users: list[User], root_password: str, absent: list[str]) -> State:
    """Return what etcd has of the wished users and of those to remove. Raises EtcdError."""
    enabled = client.log_in()
    names = {ROOT, *(user.name for user in users), *absent}
    found_users = names & set(client.ask("/v3/auth/user/list").get("users", []))
    found_roles = names & set(client.ask("/v3/auth/role/list").get("roles", []))
    wished = [User(ROOT, root_password), *users]
    known = {user.name for user in wished if enabled and client.knows(user.name, user.password)}
    return State(
        enabled=enabled,
        users={name: tuple(client.ask("/v3/auth/user/get", {"name": name}).get("roles", [])) for name in found_users},
        roles={name: parse_permissions(client.ask("/v3/auth/role/get", {"role": name})) for name in found_roles},
        known_passwords=frozenset(known),
    )


def run(module: AnsibleModule) -> dict[str, object]:
    """Read, plan, act, read again; return the result of the module."""
    params = module.params
    users = to_users(params)
    connection = from_params(params | {"username": ROOT, "password": params["root_password"]})
    root_password, absent = params["root_password"], params["absent_users"]
    passwords = [root_password, *params["previous_root_passwords"]]
    try:
        patience = 0 if module.check_mode else params["patience"]
        client = patiently(lambda: find_client(connection, passwords), patience)
        state = patiently(lambda: read_state(client, users, root_password, absent), patience)
    except UnreachableError:
        if not module.check_mode:
            raise
        state = State()
    steps = plan(root_password, users, state, absent)
    if steps and not module.check_mode:
        for step in steps:
            client.ask(step.path, dict(step.body))
        client = find_client(connection, [root_password])
        after = patiently(lambda: read_state(client, users, root_password, absent), params["patience"])
        left = plan(root_password, users, after, absent)
        if left:
            raise EtcdError(connection.endpoints[0], "still to do after all was done: " + left[0].text)
    return {"changed": bool(steps), "steps": [step.text for step in steps]}


def explain(error: EtcdError) -> str:
    """Return the error with its remedy where one is known."""
    if WRONG_PASSWORD in error.message:
        return f"{error}. The password of the user root is another one: give it as cluster_etcd_root_password"
    if "CommonName of client" in error.message:
        return f"{error}. The client certificate must have no common name in its subject"
    return str(error)


def main() -> None:
    """Run the module."""
    right = {
        "prefix": {"type": "str", "required": True},
        "kind": {"type": "str", "choices": ["read", "write", "readwrite"], "default": "readwrite"},
    }
    user = {
        "name": {"type": "str", "required": True},
        "password": {"type": "str", "required": True, "no_log": True},
        "permissions": {"type": "list", "elements": "dict", "default": [], "options": right},
    }
    module = AnsibleModule(
        argument_spec=argument_spec()
        | {
            "root_password": {"type": "str", "required": True, "no_log": True},
            "previous_root_passwords": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "absent_users": {"type": "list", "elements": "str", "default": []},
            "users": {"type": "list", "elements": "dict", "default": [], "options": user},
            "patience": {"type": "float", "default": 30},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except EtcdError as error:
        module.fail_json(msg=explain(error))
    except ValueError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
