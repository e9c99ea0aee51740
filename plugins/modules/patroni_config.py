#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that declares Patroni's dynamic configuration."""

from __future__ import annotations

DOCUMENTATION = r"""
module: patroni_config
short_description: Declare Patroni's dynamic configuration
version_added: 0.1.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Compares O(config) with what etcd holds, sends only the difference, reads it again and verifies.
  - Refuses timings that Patroni would silently replace, and keys that it does not know, before anything is sent.
  - Settings that need a restart of PostgreSQL are stored and wait; RV(pending_restart) names the members. Nothing is restarted.
options:
  config:
    description:
      - Keys and values, nested as in Patroni's documentation. A null removes a key.
      - Times in seconds unless Patroni's documentation says otherwise; C(ttl) >= 20, C(loop_wait) >= 1, C(retry_timeout) >= 3,
        C(loop_wait) + 2 * C(retry_timeout) <= C(ttl).
    type: dict
    required: true
  purge:
    description:
      - Whether O(config) is complete, so that every key it does not have is removed.
      - C(pause) and C(standby_cluster) are only removed by an explicit null, as that would start failovers or promote the cluster.
    type: bool
    default: false
  login_unix_socket:
    description:
      - Folder of the socket of a PostgreSQL server on this host. Its settings are checked against what that server takes, and those that
        it would refuse are refused before anything is sent. Not checked if not given, or if the server does not answer.
    type: path
  login_user:
    description: Superuser of that server, as which it accepts the system user.
    type: str
    default: postgres
  extension_prefixes:
    description: Prefixes of settings of extensions that the server does not know yet.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - holdfast.persistence.patroni
attributes:
  check_mode:
    description: Says what would be sent and sends nothing.
    support: full
  diff_mode:
    description: Shows the whole configuration before and after.
    support: full
"""

EXAMPLES = r"""
- name: Declare timings and a setting of PostgreSQL
  holdfast.persistence.patroni_config:
    url: https://192.0.2.11:8008
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/postgresql.pem
    config:
      ttl: 20
      loop_wait: 5
      retry_timeout: 5
      postgresql:
        parameters:
          max_connections: 200
          log_statement: null

- name: Let the configuration be a site's that follows another one
  holdfast.persistence.patroni_config:
    url: https://192.0.2.11:8008
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/postgresql.pem
    config:
      standby_cluster: {host: 198.51.100.11, port: 5432}
"""

RETURN = r"""
patch:
  description: What was sent; in check mode what would be. Null values remove keys.
  type: dict
  returned: success
  sample: {ttl: 20}
config:
  description: The whole configuration afterwards; in check mode what it would be.
  type: dict
  returned: success
  sample: {ttl: 20, loop_wait: 5, retry_timeout: 5, postgresql: {parameters: {max_connections: 200}}}
pending_restart:
  description: Names of the members whose settings waited for a restart when the module ended.
  type: list
  elements: str
  returned: success
  sample: [node1, node2, node3]
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.cluster import parse_cluster
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.config import (
    apply_patch,
    check,
    patch_for,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.connection import argument_spec, client_of
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.rest import PatroniError
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.reader import read_settings
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.settings import problems
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal, Refusals


def check_settings(params: dict[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse settings of PostgreSQL that a running server would not take. Raises Refusals."""
    if not params["login_unix_socket"]:
        return
    settings = read_settings(params["login_unix_socket"], params["login_user"])
    parameters = (config.get("postgresql") or {}).get("parameters") or {}
    if settings is None:
        return
    if found := tuple(problems(parameters, settings, params["extension_prefixes"])):
        raise Refusals(found)


def run(module: AnsibleModule) -> dict[str, object]:
    """Read, plan, act, verify; return the result of the module. Raises PatroniError and Refusals."""
    wish, purge = module.params["config"], module.params["purge"]
    client = client_of(module.params)
    before = client.get("/config")
    patch = patch_for(before, wish, purge=purge)
    after = apply_patch(before, patch)
    check(wish, after)
    check_settings(module.params, after)
    if patch and not module.check_mode:
        # The answer is what was stored; GET /config of another thread may lag one loop behind.
        after = client.patch("/config", patch)
        if left := patch_for(after, wish, purge=purge):
            raise PatroniError(
                client.url, f"stored something else than was sent, {left} is missing", "Run again, or read its journal"
            )
    cluster = parse_cluster(client.get("/cluster"))
    return {
        "changed": bool(patch),
        "patch": patch,
        "config": after,
        "pending_restart": [member.name for member in cluster.pending_restart],
        "diff": {"before": before, "after": after},
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=argument_spec(
            config={"type": "dict", "required": True},
            purge={"type": "bool", "default": False},
            login_unix_socket={"type": "path"},
            login_user={"type": "str", "default": "postgres"},
            extension_prefixes={"type": "list", "elements": "str", "default": []},
        ),
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except Refusals as error:
        module.fail_json(
            msg=f"Patroni's configuration is refused, nothing was sent: {error}", problems=list(error.problems)
        )
    except (PatroniError, Refusal) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
