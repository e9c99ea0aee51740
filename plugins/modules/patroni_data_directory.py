#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that refuses a data directory that belongs to something else, before Patroni starts on it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: patroni_data_directory
short_description: Refuse a PostgreSQL data directory that belongs to another cluster
version_added: 0.1.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Says whether O(path) is missing, empty, or holds data of the Patroni cluster O(cluster_name), and fails for anything else.
    It changes nothing.
  - Where Patroni already runs on this host (it answers at O(url)) the directory is its own business.
  - Else the system identifier is compared with that of the members at O(peers); where no member answers, the directory must have
    run under Patroni as O(cluster_name) before.
options:
  path:
    description: The data directory.
    type: path
    required: true
  cluster_name:
    description: Patroni's scope.
    type: str
    required: true
  version:
    description: Major version of PostgreSQL on this host.
    type: int
    required: true
  peers:
    description: Addresses of the other members' REST APIs.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - holdfast.persistence.patroni
attributes:
  check_mode:
    description: It only reads.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Refuse data of another cluster
  holdfast.persistence.patroni_data_directory:
    path: /var/lib/postgresql/17/orders
    cluster_name: orders
    version: 17
    url: https://192.0.2.11:8008
    peers: [https://192.0.2.12:8008, https://192.0.2.13:8008]
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/postgresql.pem

- name: Look at data of a cluster that has one member
  holdfast.persistence.patroni_data_directory:
    path: /var/lib/postgresql/17/orders
    cluster_name: orders
    version: 17
    url: https://192.0.2.11:8008
    peers: []
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/postgresql.pem
  register: data
"""

RETURN = r"""
state:
  description: V(running) where Patroni is at work on this host, V(empty) also for a missing directory, V(ours) for data of the cluster.
  type: str
  returned: success
  sample: ours
parent:
  description: Folder in which the directory lies, empty where that does not exist.
  type: str
  returned: success
  sample: /var/lib/postgresql/17
system_identifier:
  description: Number of the database system in the directory, empty where there is none.
  type: str
  returned: success
  sample: "7574950921763389847"
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.connection import argument_spec, client_of
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.datadir import (
    DataDirectory,
    judge,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.rest import PatroniError, UntrustedError
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

CONTROL_BYTES = 8


def read_directory(path: str) -> DataDirectory:
    """Return what is in the directory; a missing one is empty. Raises OSError where it cannot be read."""
    try:
        entries = frozenset(os.listdir(path))
    except FileNotFoundError:
        return DataDirectory(path)
    return DataDirectory(
        path,
        entries,
        version=_read(path, "PG_VERSION").decode().strip(),
        control=_read(path, "global/pg_control")[:CONTROL_BYTES],
        postmaster_opts=_read(path, "postmaster.opts").decode(errors="replace"),
    )


def _read(path: str, name: str) -> bytes:
    try:
        with open(os.path.join(path, name), "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        return b""


def running_system(params: dict, urls: list[str]) -> str | None:
    """Return the system identifier that the first answering member of the cluster reports, None where none does.

    Raises PatroniError where a member belongs to a cluster of another name.
    """
    for url in urls:
        try:
            state = client_of(params, url).get_state()
        except UntrustedError:
            raise
        except PatroniError:
            # A member that is down has no say; the directory is then judged by its own files.
            continue
        scope = state.get("patroni", {}).get("scope")
        if scope != params["cluster_name"]:
            raise PatroniError(
                url, f"is a member of the cluster {scope}", f"Allowed is {params['cluster_name']}: correct cluster_name"
            )
        if state.get("database_system_identifier"):
            return state["database_system_identifier"]
    return None


def is_running(params: dict) -> bool:
    """Return whether Patroni of this cluster answers on this host. Raises PatroniError where it is another cluster's."""
    client = client_of(params)
    try:
        scope = client.get_state().get("patroni", {}).get("scope")
    except UntrustedError:
        raise
    except PatroniError:
        return False
    if scope != params["cluster_name"]:
        raise PatroniError(
            client.url,
            f"this host runs the cluster {scope}",
            f"Allowed is {params['cluster_name']}: correct cluster_name or the host",
        )
    return True


def run(params: dict) -> dict[str, object]:
    """Read and judge; return the result of the module."""
    directory = read_directory(params["path"])
    parent = os.path.dirname(params["path"])
    result = {
        "changed": False,
        "system_identifier": directory.system_identifier,
        "parent": parent if os.path.isdir(parent) else "",
    }
    if directory.is_empty:
        return {**result, "state": "empty"}
    if is_running(params):
        return {**result, "state": "running"}
    system = running_system(params, params["peers"])
    return {**result, "state": judge(directory, params["cluster_name"], str(params["version"]), system)}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=argument_spec(
            path={"type": "path", "required": True},
            cluster_name={"type": "str", "required": True},
            version={"type": "int", "required": True},
            peers={"type": "list", "elements": "str", "default": []},
        ),
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params))
    except (Refusal, PatroniError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
