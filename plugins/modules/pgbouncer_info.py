#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that reads PgBouncer's pools."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pgbouncer_info
short_description: Read PgBouncer's pools and databases
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Reads C(SHOW POOLS) and C(SHOW DATABASES) from the administration console on PgBouncer's Unix socket.
  - The system user that PgBouncer runs as needs no password there. The module must run as that user, or as root, who becomes
    that user for the connection. No PostgreSQL client is needed.
options:
  socket:
    description: Path of PgBouncer's Unix socket.
    type: path
    default: /run/postgresql/.s.PGSQL.6432
  user:
    description: System user that PgBouncer runs as.
    type: str
    default: postgres
  must_answer:
    description: Whether it is an error when PgBouncer does not answer. When V(false), RV(error) tells.
    type: bool
    default: true
  timeout:
    description: Time for each answer, in seconds.
    type: float
    default: 5
attributes:
  check_mode:
    description: It only reads.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Read the pools
  holdfast.persistence.pgbouncer_info:
  become: true

- name: Fail where clients have waited for a connection for long
  ansible.builtin.assert:
    that: pools.pools | map(attribute='longest_wait') | max < 5
"""

RETURN = r"""
error:
  description: Why PgBouncer did not answer, empty when it did.
  type: str
  returned: success
  sample: "/run/postgresql/.s.PGSQL.6432: No such file or directory"
version:
  description: PgBouncer's version.
  type: str
  returned: success
  sample: PgBouncer 1.24.1
pools:
  description: A row for each database and user that has connections. Waiting is in seconds.
  type: list
  elements: dict
  returned: success
  sample:
    - database: orderdb
      user: orderuser
      mode: transaction
      clients_active: 8
      clients_waiting: 0
      servers_active: 4
      servers_idle: 1
      longest_wait: 0.0
databases:
  description: Configured databases, with where they lead and whether they are paused.
  type: list
  elements: dict
  returned: success
  sample:
    - {name: orderdb, address: "127.0.0.1:5000", paused: false, disabled: false, connections: 5, pool_size: 20}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.local import connect
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.pools import parse_databases, parse_pools
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


def read(path: str, user: str, timeout: float) -> dict[str, object]:
    """Return version, pools and databases. Raises Refusal."""
    with connect(path, user, timeout) as console:
        return {
            "error": "",
            "version": console.rows("SHOW VERSION")[0]["version"],
            "pools": parse_pools(console.rows("SHOW POOLS")),
            "databases": parse_databases(console.rows("SHOW DATABASES")),
        }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "socket": {"type": "path", "default": "/run/postgresql/.s.PGSQL.6432"},
            "user": {"type": "str", "default": "postgres"},
            "must_answer": {"type": "bool", "default": True},
            "timeout": {"type": "float", "default": 5},
        },
        supports_check_mode=True,
    )
    try:
        result = read(module.params["socket"], module.params["user"], module.params["timeout"])
    except Refusal as error:
        if module.params["must_answer"]:
            module.fail_json(
                msg=f"PgBouncer does not answer: {error}. Check whether the service runs: systemctl status pgbouncer"
            )
        result = {"error": str(error), "version": "", "pools": [], "databases": []}
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
