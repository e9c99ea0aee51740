#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that gives Valkey instances of this host back their identity in the cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: valkey_identity
short_description: Rebuild a lost or damaged nodes.conf of Valkey instances
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - An instance without its C(nodes.conf) starts as a stranger, one with a damaged file not at all. What was in the file the other
    members know, so it is written again from what they say; a damaged file stays beside it.
  - Files that can be used are left alone, and so is an instance that has neither a file nor data, which is new.
  - It refuses where nobody can tell, and where an instance that owns slots has lost its data as well.
  - Run it before the instances are started. One that runs has all in memory and is told to write its file again.
options:
  address:
    description: Address at which the other members reach this host.
    type: str
    required: true
  ports:
    description: Client ports of the instances of this host.
    type: list
    elements: int
    required: true
  data_dir:
    description: Folder that has a folder for each instance, named after its port, with its data and its C(nodes.conf).
    type: path
    default: /var/lib/valkey
  nodes:
    description: All nodes of the cluster, as for M(holdfast.persistence.valkey_cluster); only where they listen is used.
    type: list
    elements: dict
    required: true
    suboptions:
      address:
        description: Address or name at which this module reaches the node.
        type: str
        required: true
      port:
        description: Client port, the TLS port with O(tls).
        type: int
        required: true
      host:
        description: Not used here.
        type: str
      zone:
        description: Not used here.
        type: str
        default: ""
      weight:
        description: Not used here.
        type: float
        default: 1.0
      role:
        description: Not used here.
        type: str
        choices: [primary, replica]
      slots:
        description: Not used here.
        type: str
        default: ""
      state:
        description: Not used here.
        type: str
        choices: [present, absent]
        default: present
extends_documentation_fragment:
  - holdfast.persistence.valkey
attributes:
  check_mode:
    description: Says which files would be made again.
    support: full
  diff_mode:
    description: Shows what would be in them.
    support: full
"""

EXAMPLES = r"""
- name: Make lost identities again
  holdfast.persistence.valkey_identity:
    address: 198.18.0.11
    ports: [7001, 7002]
    nodes: "{{ valkey_nodes }}"
    username: admin
    password: "{{ cluster_valkey_admin_password }}"
    tls: true
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/valkey.pem

- name: Say whose identity is lost
  holdfast.persistence.valkey_identity:
    address: 198.18.0.11
    ports: [7001]
    nodes: "{{ valkey_nodes }}"
    username: admin
    password: "{{ cluster_valkey_admin_password }}"
    tls: true
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/valkey.pem
  check_mode: true
"""

RETURN = r"""
made:
  description: Node ids of the instances whose file was made again, by port.
  returned: success
  type: dict
  sample: {"7001": "07c37dfeb235213a872192d90877d0cd55635b91"}
"""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import replace_file
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import connection
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Endpoint,
    Fleet,
    ValkeyError,
    checked,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.host import identity
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.nodes import NODE_OPTIONS, resolved
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import (
    parse_info,
    parse_nodes,
)

FILE = "nodes.conf"
DATA = ("dump.rdb", "appendonlydir")

ARGUMENTS: dict[str, Any] = {
    "address": {"type": "str", "required": True},
    "ports": {"type": "list", "elements": "int", "required": True},
    "data_dir": {"type": "path", "default": "/var/lib/valkey"},
    "nodes": {"type": "list", "elements": "dict", "required": True, "options": NODE_OPTIONS},
    **connection.argument_spec(),
}


def read(path: str) -> str | None:
    """Return the text of a file, None where there is none; bytes that are no text can't be of a good one."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return None


def has_data(folder: str) -> bool:
    """Whether an instance has data of its own."""
    return any(os.path.exists(os.path.join(folder, name)) for name in DATA)


def ask(fleet: Fleet, endpoints: list[Endpoint]) -> dict[Endpoint, identity.Told]:
    """Return what the members that answer say. Raises ValkeyError."""
    silent = fleet.connect(endpoints)
    commands = [("CLUSTER", "NODES"), ("CLUSTER", "INFO")]
    found = {}
    for endpoint, replies in fleet.each({e: commands for e in endpoints if e not in silent}).items():
        nodes, info = (checked(reply) for reply in replies)
        found[endpoint] = identity.Told(endpoint, parse_nodes(nodes), int(parse_info(info)["cluster_current_epoch"]))
    return found


def content(
    folder: str, where: Endpoint, reason: str, told: Mapping[Endpoint, identity.Told]
) -> tuple[str, str] | None:
    """Return the node id and the content of the file of an instance; None where the instance is new. Raises Refusal."""
    path = os.path.join(folder, FILE)
    best = identity.known(told, where)
    if best is None:
        if told and not os.path.exists(path):
            # The members don't know it: it is to join them, and valkey_cluster says whether it can.
            return None
        raise Refusal(
            f"{path} {reason}, and no other member that answers knows {where}",
            "Start the other members and run again; if all lost theirs, move the folders aside and restore a backup",
        )
    member, me = best
    if not has_data(folder):
        identity.refuse_empty(me, f"{where}, whose {path} {reason},")
    return me.id, identity.rebuilt(member, me)


def write(folder: str, content: str) -> None:
    """Write the file as the folder's owner has files; a damaged one stays beside it."""
    path, owner = os.path.join(folder, FILE), os.stat(folder)
    if os.path.exists(path):
        os.replace(path, f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    replace_file(path, content, mode=0o640, uid=owner.st_uid, gid=owner.st_gid)


def unusable(data_dir: str, ports: Sequence[int]) -> dict[int, str]:
    """Return what is wrong with the files of instances, by port. One without a file and without data is new."""
    found = {}
    for port in ports:
        folder = os.path.join(data_dir, str(port))
        text = read(os.path.join(folder, FILE))
        reason = identity.problem(text)
        if reason and (text is not None or has_data(folder)):
            found[port] = reason
    return found


def make(module: AnsibleModule, reasons: Mapping[int, str]) -> dict[str, Any]:
    """Make files again. Returns the result. Raises Refusal, ValkeyError, OSError."""
    address = resolved(module.params["address"])
    mine = {port: Endpoint(address, port) for port in reasons}
    nodes = [Endpoint(resolved(item["address"]), item["port"]) for item in module.params["nodes"]]
    made, plans = {}, {}
    with Fleet(connection.options_from(module.params)) as fleet:
        silent = fleet.connect(mine.values())
        told = ask(fleet, [endpoint for endpoint in nodes if endpoint not in mine.values()])
        for port, reason in reasons.items():
            if mine[port] not in silent:
                made[str(port)] = fleet.client(mine[port]).call("CLUSTER", "MYID")
                continue
            found = content(os.path.join(module.params["data_dir"], str(port)), mine[port], reason, told)
            if found is not None:
                made[str(port)], plans[port] = found
        if not module.check_mode:
            for endpoint in mine.values():
                if endpoint not in silent:
                    fleet.client(endpoint).call("CLUSTER", "SAVECONFIG")
    for port, text in plans.items():
        if not module.check_mode:
            write(os.path.join(module.params["data_dir"], str(port)), text)
    before = "".join(f"{port}/{FILE} {reasons[port]}\n" for port in map(int, made))
    after = "".join(f"{port}/{FILE}\n{text}" for port, text in plans.items())
    return {"changed": bool(made), "made": made, "diff": {"before": before, "after": after}}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        reasons = unusable(module.params["data_dir"], module.params["ports"])
        if reasons and connection.library is None:
            module.fail_json(msg=missing_required_lib("valkey or redis"), exception=connection.LIBRARY_ERROR)
        result = make(module, reasons) if reasons else {"changed": False, "made": {}}
    except (Refusal, ValkeyError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
