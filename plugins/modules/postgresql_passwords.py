#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that changes passwords of PostgreSQL's roles and has the pools learn them in the same moment."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_passwords
short_description: Change passwords of PostgreSQL's roles without dropping pooled clients
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Compares the passwords of roles with those declared, and changes the ones that differ. The server gets SCRAM verifiers, never a
    password, so none is in its log.
  - PgBouncer logs in to PostgreSQL by what it learnt from its clients' logins, so a pool whose user has another password now could
    open no connection until a client comes with the new one. Right after the change the module logs in to each such pool itself.
  - PgBouncers read their file of passwords again at the same moment. The file must contain the new passwords already.
  - Runs on the primary's host, as a system user that PostgreSQL accepts as its superuser.
options:
  users:
    description: Roles that exist, and their passwords.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the role.
        type: str
        required: true
      password:
        description: Password.
        type: str
        required: true
  login_unix_socket:
    description: Folder of PostgreSQL's socket.
    type: path
    default: /var/run/postgresql
  login_user:
    description: Superuser to log in as.
    type: str
    default: postgres
  pools:
    description: The PgBouncers in front. Those that cannot be reached are a failure before anything is changed.
    type: dict
    suboptions:
      hosts:
        description: Their addresses, by name.
        type: dict
        required: true
      port:
        description: Their port.
        type: int
        default: 6432
      user:
        description: User of their consoles.
        type: str
        default: pgbouncer
      passwords:
        description: Passwords of that user, tried in this order; the one before and the new one.
        type: list
        elements: str
        required: true
      ca_cert:
        description: Path of the trusted certificates.
        type: path
        required: true
      client_cert:
        description: Path of the PEM with private key and certificate to connect with.
        type: path
        required: true
requirements:
  - psycopg (3) or psycopg2 on the host that runs the module
attributes:
  check_mode:
    description: Says whose password would change.
    support: full
  diff_mode:
    description: Passwords are never shown; RV(changed_users) says whose.
    support: none
"""

EXAMPLES = r"""
- name: Set the passwords
  holdfast.persistence.postgresql_passwords:
    users:
      - name: app
        password: "{{ vault_app_password }}"
    pools:
      hosts: {node1: 192.0.2.11}
      passwords: ["{{ vault_pgbouncer_password }}"]
      ca_cert: /etc/ssl/holdfast/ca.crt
      client_cert: /etc/ssl/holdfast/postgresql.pem

- name: Say whose password would change
  holdfast.persistence.postgresql_passwords:
    users:
      - name: app
        password: "{{ vault_app_password }}"
  check_mode: true
"""

RETURN = r"""
changed_users:
  description: Roles whose password was changed; in check mode would be.
  type: list
  elements: str
  returned: success
  sample: [app]
learnt:
  description: Pools that were logged in to, as host, database and user.
  type: list
  elements: str
  returned: success
  sample: ["node1 orderdb orderuser"]
"""

import secrets
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.reader import find_driver
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.scram import SALT_BYTES, matches, verifier
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

CONNECT_SECONDS = 5


class Pools:
    """Consoles of PgBouncers, open before anything changes. Raises Refusal where one cannot be reached."""

    def __init__(self, driver: Any, wish: dict[str, Any]) -> None:
        self._driver, self._wish = driver, wish
        self._consoles = {name: self._console(name) for name in wish["hosts"]}

    def _connect(self, name: str, database: str, user: str, password: str) -> Any:
        connection = self._driver.connect(
            host=self._wish["hosts"][name],
            port=self._wish["port"],
            dbname=database,
            user=user,
            password=password,
            connect_timeout=CONNECT_SECONDS,
            sslmode="verify-full",
            sslrootcert=self._wish["ca_cert"],
            sslcert=self._wish["client_cert"],
            sslkey=self._wish["client_cert"],
        )
        connection.autocommit = True
        return connection

    def _console(self, name: str) -> Any:
        said = ""
        for password in self._wish["passwords"]:
            try:
                return self._connect(name, "pgbouncer", self._wish["user"], password)
            except self._driver.Error as error:
                said = line(error)
        raise Refusal(f"nothing was changed: PgBouncer of {name} cannot be reached: {said}")

    def reload(self) -> None:
        """Have them read their files again. Raises Refusal."""
        for name in self._consoles:
            self._ask(name, "RELOAD")

    def pairs(self, users: set[str]) -> list[tuple[str, str, str]]:
        """Return (PgBouncer, database, user) of the pools of these users."""
        return [
            (name, row["database"], row["user"])
            for name in self._consoles
            for row in self._ask(name, "SHOW POOLS")
            if row["user"] in users and row["database"] != "pgbouncer"
        ]

    def _ask(self, name: str, command: str) -> list[dict[str, Any]]:
        try:
            with self._consoles[name].cursor() as cursor:
                cursor.execute(command)
                columns = [column[0] for column in cursor.description or ()]
                return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()] if columns else []
        except self._driver.Error as error:
            raise Refusal(f"PgBouncer of {name} failed at {command}: {line(error)}. Run it again") from error

    def learn(self, pair: tuple[str, str, str], password: str) -> None:
        """Log in to a pool. Raises Refusal."""
        try:
            self._connect(*pair, password).close()
        except self._driver.Error as error:
            raise Refusal(
                f"the password of {pair[2]} is changed, but the login to {pair[1]} through PgBouncer of {pair[0]} fails: "
                f"{line(error)}. Run it again"
            ) from error


def line(error: Exception) -> str:
    """Return a message without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def differing(cursor: Any, wished: dict[str, str], check_mode: bool) -> list[str]:
    """Return the roles whose password is another one. Raises Refusal where a role is missing.

    In check mode a role that is missing may be one that is only to be made.
    """
    cursor.execute("SELECT rolname, rolpassword FROM pg_catalog.pg_authid WHERE rolname = ANY(%s)", (list(wished),))
    found = dict(cursor.fetchall())
    missing = sorted(set(wished) - set(found))
    if missing and not check_mode:
        raise Refusal(f"nothing was changed: roles {', '.join(missing)} do not exist; run site.yml first")
    return [name for name, password in wished.items() if not matches(found.get(name), password)]


def change(cursor: Any, name: str, password: str) -> None:
    """Change one password; the name is quoted by the server itself."""
    cursor.execute("SELECT pg_catalog.quote_ident(%s)", (name,))
    quoted = cursor.fetchone()[0]
    # A verifier has no character that means something in a literal.
    cursor.execute(f"ALTER ROLE {quoted} PASSWORD '{verifier(password, secrets.token_bytes(SALT_BYTES))}'")


def run(module: AnsibleModule, driver: Any) -> dict[str, object]:
    """Read, act, let the pools learn; return the result. Raises Refusal and the driver's errors."""
    params = module.params
    wished = {user["name"]: user["password"] for user in params["users"]}
    connection = driver.connect(
        host=params["login_unix_socket"], user=params["login_user"], dbname="postgres", connect_timeout=CONNECT_SECONDS
    )
    connection.autocommit = True
    with connection.cursor() as cursor:
        changes = differing(cursor, wished, module.check_mode)
        if module.check_mode:
            return {"changed": bool(changes), "changed_users": changes, "learnt": []}
        pools = Pools(driver, params["pools"]) if params["pools"] and params["pools"]["hosts"] else None
        own = params["pools"]["user"] if params["pools"] else ""
        learnt = pools.pairs(set(wished) - {own}) if pools is not None else []
        # The pools' own user first, so that they can look the others up.
        for name in sorted(wished, key=lambda name: name != own):
            if name in changes:
                change(cursor, name, wished[name])
            if pools is None:
                continue
            if name == own:
                pools.reload()
            # Also where the password is no new one: a run that was killed may have changed it and told no pool.
            for pair in learnt:
                if pair[2] == name:
                    pools.learn(pair, wished[name])
    connection.close()
    return {"changed": bool(changes), "changed_users": changes, "learnt": [" ".join(pair) for pair in learnt]}


def main() -> None:
    """Run the module."""
    user = {
        "name": {"type": "str", "required": True},
        "password": {"type": "str", "required": True, "no_log": True},
    }
    pools = {
        "hosts": {"type": "dict", "required": True},
        "port": {"type": "int", "default": 6432},
        "user": {"type": "str", "default": "pgbouncer"},
        "passwords": {"type": "list", "elements": "str", "required": True, "no_log": True},
        "ca_cert": {"type": "path", "required": True},
        "client_cert": {"type": "path", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "users": {"type": "list", "elements": "dict", "required": True, "options": user},
            "login_unix_socket": {"type": "path", "default": "/var/run/postgresql"},
            "login_user": {"type": "str", "default": "postgres"},
            "pools": {"type": "dict", "options": pools},
        },
        supports_check_mode=True,
    )
    try:
        driver = find_driver()
        module.exit_json(**run(module, driver))
    except Refusal as error:
        module.fail_json(msg=f"passwords: {error}")
    except driver.Error as error:
        module.fail_json(msg=f"passwords: PostgreSQL of this host: {line(error)}. Run it again")


if __name__ == "__main__":
    main()
