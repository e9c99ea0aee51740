#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that goes through every balancer and asks PostgreSQL where it came out."""

from __future__ import annotations

DOCUMENTATION = r"""
module: routing_info
short_description: Ask PostgreSQL through every balancer which server answers
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Opens a connection through each port of each balancer, all at once, and asks the server behind it who it is.
    HAProxy may believe what it likes, this is what clients get.
  - Runs on a host that reaches the balancers. It changes nothing.
options:
  balancers:
    description: Addresses of the balancers, by name.
    type: dict
    required: true
  members:
    description: Addresses of the PostgreSQL hosts, by name.
    type: dict
    required: true
  ports:
    description: Ports to go through, by what they are for.
    type: dict
    required: true
  login_user:
    description: User to log in as.
    type: str
    default: pgbouncer
  login_password:
    description: Its password.
    type: str
    required: true
  login_db:
    description: Database to connect to.
    type: str
    default: postgres
  settings:
    description: Settings of PostgreSQL to return, of the first server that takes writes.
    type: list
    elements: str
    default: []
  ca_cert:
    description: Path of the trusted certificates.
    type: path
    required: true
  client_cert:
    description: Path of the PEM with private key and certificate to connect with.
    type: path
    required: true
  timeout:
    description: Seconds for each connection.
    type: int
    default: 5
requirements:
  - psycopg (3) or psycopg2 on the host that runs the module
attributes:
  check_mode:
    description: It changes nothing.
    support: full
  diff_mode:
    description: There is no difference to show.
    support: none
"""

EXAMPLES = r"""
- name: Ask through the balancers
  holdfast.persistence.routing_info:
    balancers: {node1: 192.0.2.11}
    members: {node1: 192.0.2.11, node2: 192.0.2.12}
    ports: {read_write: 5000, read_only: 5001}
    login_password: "{{ vault_pgbouncer_password }}"
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/postgresql.pem

- name: Read a setting of every member that answers
  holdfast.persistence.routing_info:
    balancers: {node1: 192.0.2.11, node2: 192.0.2.12}
    members: {node1: 192.0.2.11, node2: 192.0.2.12}
    ports: {read_write: 5000}
    settings: [shared_buffers]
    login_password: "{{ vault_pgbouncer_password }}"
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/postgresql.pem
"""

RETURN = r"""
answers:
  description: Who answered, for each balancer and port. C(member) is an address where it is none of O(members).
  type: list
  elements: dict
  returned: success
  sample:
    - {balancer: node1, port: read_write, member: node2, replica: false, error: ""}
settings:
  description: Values of O(settings) as PostgreSQL shows them.
  type: dict
  returned: success
  sample: {shared_buffers: 256MB}
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.reader import find_driver
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

WHO = "SELECT host(inet_server_addr()), pg_is_in_recovery()"
SHOW = "SELECT name, current_setting(name) FROM unnest(%s::text[]) AS name"


class Asker:
    """Goes through balancers with the module's options."""

    def __init__(self, driver: Any, params: dict[str, Any]) -> None:
        self._driver, self._params = driver, params
        self._names = {address: name for name, address in params["members"].items()}

    def ask(self, where: tuple[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
        """Return (who answered behind the balancer's port, settings where it takes writes)."""
        balancer, port = where
        answer = {"balancer": balancer, "port": port, "member": "", "replica": None, "error": ""}
        params = self._params
        try:
            connection = self._driver.connect(
                host=params["balancers"][balancer],
                port=params["ports"][port],
                user=params["login_user"],
                password=params["login_password"],
                dbname=params["login_db"],
                connect_timeout=params["timeout"],
                # PostgreSQL's own certificate has its balancers' names.
                sslmode="verify-full",
                sslrootcert=params["ca_cert"],
                sslcert=params["client_cert"],
                sslkey=params["client_cert"],
            )
            connection.autocommit = True
            try:
                with connection.cursor() as cursor:
                    cursor.execute(WHO)
                    address, replica = cursor.fetchone()
                    settings = {}
                    if not replica and params["settings"]:
                        cursor.execute(SHOW, (params["settings"],))
                        settings = dict(cursor.fetchall())
            finally:
                connection.close()
        except self._driver.Error as error:
            return {**answer, "error": " ".join(str(error).split()) or type(error).__name__}, {}
        return {**answer, "member": self._names.get(address, address), "replica": replica}, settings


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "balancers": {"type": "dict", "required": True},
            "members": {"type": "dict", "required": True},
            "ports": {"type": "dict", "required": True},
            "login_user": {"type": "str", "default": "pgbouncer"},
            "login_password": {"type": "str", "required": True, "no_log": True},
            "login_db": {"type": "str", "default": "postgres"},
            "settings": {"type": "list", "elements": "str", "default": []},
            "ca_cert": {"type": "path", "required": True},
            "client_cert": {"type": "path", "required": True},
            "timeout": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    try:
        asker = Asker(find_driver(), module.params)
    except Refusal as error:
        module.fail_json(msg=str(error))
    places = [(balancer, port) for balancer in module.params["balancers"] for port in module.params["ports"]]
    with ThreadPoolExecutor(max_workers=max(1, len(places))) as workers:
        found = list(workers.map(asker.ask, places))
    module.exit_json(
        changed=False,
        answers=[answer for answer, _settings in found],
        settings=next((settings for _answer, settings in found if settings), {}),
    )


if __name__ == "__main__":
    main()
