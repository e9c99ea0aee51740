#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that declares settings of PostgreSQL's databases and roles, and has the pools take them up."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_session_defaults
short_description: Declare settings of databases and roles, and renew the pools' connections
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Sets what C(ALTER DATABASE ... SET) and C(ALTER ROLE ... [IN DATABASE ...] SET) set. Behind a pool that clients share this is the one
    place where a C(search_path) or C(statement_timeout) holds.
  - Parameters that are not named are left alone; one with the value V(null) is reset. All are changed in one transaction, or none is.
  - A connection keeps the settings that it began with. Those of O(pools) are renewed after a change, each when it is released, without an
    error for any client; sessions keep theirs until their client connects again.
  - Runs on the primary's host, as a system user that PostgreSQL accepts as its superuser.
options:
  databases:
    description: Databases that exist, each with C(name) and C(settings), a dict. Other keys are ignored.
    type: list
    elements: dict
    default: []
  roles:
    description:
      - Roles that exist, each with C(name), C(settings), a dict, and C(database_settings), a dict of such dicts by database. Other keys
        are ignored.
    type: list
    elements: dict
    default: []
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
      password:
        description: Password of that user.
        type: str
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
    description: Tries the changes in a transaction that is rolled back.
    support: full
  diff_mode:
    description: Shows the settings before and after.
    support: full
"""

EXAMPLES = r"""
- name: Have the settings
  holdfast.persistence.postgresql_session_defaults:
    databases:
      - name: orderdb
        settings: {search_path: [sales, public], statement_timeout: 30s}
    roles:
      - name: reporter
        settings: {default_transaction_read_only: true}
        database_settings:
          orderdb: {statement_timeout: 10min}
  become: true
  become_user: postgres

- name: Take a setting of a role back
  holdfast.persistence.postgresql_session_defaults:
    databases: []
    roles:
      - name: reporter
        settings: {statement_timeout: null}
  become: true
  become_user: postgres
"""

RETURN = r"""
changes:
  description: What was changed, or would be.
  type: list
  elements: str
  returned: success
  sample: ["database orderdb: statement_timeout = 30s"]
renewed:
  description: Pools that got new connections, as host and name.
  type: list
  elements: str
  returned: success
  sample: ["node1 orderdb"]
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.pause import quoted
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.remote import rows
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.renew import to_renew
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.defaults import (
    Default,
    affected,
    differing,
    nearest,
    parse,
    wished,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.reader import find_driver
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

CONNECT_SECONDS = 5
STORED = """
SELECT coalesce(d.datname, ''), coalesce(r.rolname, ''), s.setconfig
FROM pg_catalog.pg_db_role_setting s
LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
"""


def line(error: Exception) -> str:
    """Return a message without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def read(cursor: Any) -> dict[tuple[str, str], dict[str, str]]:
    """Return what is stored."""
    cursor.execute(STORED)
    return parse(cursor.fetchall())


def statement(cursor: Any, default: Default) -> str:
    """Return the statement that sets or resets a default, quoted by the server."""
    parts, words = [], []
    if default.role:
        parts.append("ALTER ROLE %I")
        words.append(default.role)
        if default.database:
            parts.append("IN DATABASE %I")
            words.append(default.database)
    else:
        parts.append("ALTER DATABASE %I")
        words.append(default.database)
    parts.append("RESET %I" if default.values is None else "SET %I TO " + ", ".join(["%L"] * len(default.values)))
    words += [default.name, *(default.values or ())]
    cursor.execute("SELECT pg_catalog.format(%s, VARIADIC %s::text[])", (" ".join(parts), words))
    found: str = cursor.fetchone()[0]
    return found


def apply(connection: Any, driver: Any, default: Default) -> None:
    """Set one. Raises Refusal."""
    with connection.cursor() as cursor:
        text = statement(cursor, default)
        cursor.execute("SELECT name FROM pg_catalog.pg_settings")
        names = [row[0] for row in cursor.fetchall()]
        try:
            # A statement made by format(): no place for parameters.
            cursor.execute(text.replace("%", "%%"), ())
        except driver.Error as error:
            like = nearest(default.name, names) if default.name.lower() not in names else ""
            hint = f" Did you mean {like}?" if like else ""
            raise Refusal(f"{default.owner}: {default.name}: {line(error)}.{hint} Nothing was changed") from error


def parts_of(default: Default) -> set[str]:
    """Return what has to exist for a default."""
    found = {"database": default.database, "role": default.role}
    return {f"{kind} {name}" for kind, name in found.items() if name}


def absent(cursor: Any, wish: list[Default]) -> set[str]:
    """Return the databases and roles that do not exist."""
    cursor.execute(
        "SELECT 'database ' || datname FROM pg_catalog.pg_database UNION ALL SELECT 'role ' || rolname FROM pg_catalog.pg_roles"
    )
    return {part for default in wish for part in parts_of(default)} - {row[0] for row in cursor.fetchall()}


def described(have: Mapping[tuple[str, str], Mapping[str, str]]) -> dict[str, str]:
    """Return what is stored by a name that an operator reads."""
    return {
        f"{Default(database, role, name, None).owner}: {name}": value
        for (database, role), settings in have.items()
        for name, value in settings.items()
    }


class Consoles:
    """The PgBouncers' consoles, open before anything changes. Raises Refusal where one cannot be reached."""

    def __init__(self, driver: Any, wish: dict[str, Any] | None) -> None:
        self._driver = driver
        hosts = wish["hosts"] if wish else {}
        self._consoles = {name: self._connect(wish or {}, name, address) for name, address in hosts.items()}

    def _connect(self, wish: dict[str, Any], name: str, address: str) -> Any:
        try:
            connection = self._driver.connect(
                host=address, port=wish["port"], dbname="pgbouncer", user=wish["user"], password=wish["password"],
                connect_timeout=CONNECT_SECONDS, sslmode="verify-full", sslrootcert=wish["ca_cert"],
                sslcert=wish["client_cert"], sslkey=wish["client_cert"],
            )  # fmt: skip
        except self._driver.Error as error:
            raise Refusal(f"nothing was changed: PgBouncer of {name} cannot be reached: {line(error)}") from error
        connection.autocommit = True
        return connection

    def renew(self, databases: list[str]) -> list[str]:
        """Renew the connections to databases; return which pools were. Raises Refusal."""
        renewed = []
        for host, console in self._consoles.items():
            try:
                known, pools = rows(console, "SHOW DATABASES"), rows(console, "SHOW POOLS")
                names = sorted({name for database in databases for name in to_renew(known, pools, database)})
                for name in names:
                    rows(console, f"RECONNECT {quoted(name)}")
            except self._driver.Error as error:
                raise Refusal(
                    f"the settings are changed, but PgBouncer of {host} did not renew its connections: {line(error)}. "
                    "Run renew_pools.yml"
                ) from error
            renewed += [f"{host} {name}" for name in names]
        return renewed


def run(module: AnsibleModule, driver: Any) -> dict[str, Any]:
    """Read, try, compare, commit or take back; return the result. Raises Refusal and the driver's errors."""
    params = module.params
    wish = wished(params["databases"], params["roles"])
    connection = driver.connect(
        host=params["login_unix_socket"], user=params["login_user"], dbname="postgres", connect_timeout=CONNECT_SECONDS
    )
    with connection.cursor() as cursor:
        before = read(cursor)
        missing = absent(cursor, wish)
    candidates = differing(wish, before)
    if missing and not module.check_mode:
        raise Refusal(
            f"nothing was changed: {', '.join(sorted(missing))} does not exist; declare it in patroni_databases or patroni_users"
        )
    consoles = Consoles(driver, params["pools"] if candidates else None)
    for default in candidates:
        if not missing.intersection(parts_of(default)):
            apply(connection, driver, default)
    with connection.cursor() as cursor:
        after = read(cursor)
    old, new = described(before), described(after)
    keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    if keys and not module.check_mode:
        connection.commit()
    else:
        connection.rollback()
    connection.close()
    # In check mode a database or a role may be one that is only to be made.
    to_come = [f"{default.owner}: {default.name}" for default in candidates if missing.intersection(parts_of(default))]
    changed = {owner for owner in {*before, *after} if before.get(owner) != after.get(owner)}
    return {
        "changed": bool(keys or to_come),
        "changes": [f"{key} = {new[key]}" if key in new else f"{key} is reset" for key in keys] + to_come,
        "renewed": consoles.renew(affected(changed)) if keys and not module.check_mode else [],
        "diff": {
            "before": "".join(f"{key} = {old[key]}\n" for key in keys if key in old),
            "after": "".join(f"{key} = {new[key]}\n" for key in keys if key in new),
        },
    }


def main() -> None:
    """Run the module."""
    pools = {
        "hosts": {"type": "dict", "required": True},
        "port": {"type": "int", "default": 6432},
        "user": {"type": "str", "default": "pgbouncer"},
        "password": {"type": "str", "required": True, "no_log": True},
        "ca_cert": {"type": "path", "required": True},
        "client_cert": {"type": "path", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "databases": {"type": "list", "elements": "dict", "default": []},
            "roles": {"type": "list", "elements": "dict", "default": []},
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
        module.fail_json(msg=f"settings: {error}.")
    except driver.Error as error:
        module.fail_json(msg=f"settings: PostgreSQL of this host: {line(error)}. Run it again")


if __name__ == "__main__":
    main()
