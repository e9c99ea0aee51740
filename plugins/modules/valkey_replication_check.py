#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that checks replication and placement in a Valkey cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: valkey_replication_check
short_description: Check slots, replicas and their placement in a Valkey cluster
version_added: 0.1.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Asks every declared node and returns what is not as it should be, each with its remedy.
  - Every slot has to be covered once and none left open, every primary has to have its replicas with their links up and
    their lag bounded, and no replica may stand on its primary's host (or zone, where there are several).
  - No host or zone may hold so many primaries that its loss leaves no majority.
  - All nodes have to agree on topology and epochs, and to have as many databases. All primaries have to have the same libraries
    of functions.
  - It changes nothing.
options:
  nodes:
    description: All nodes of the cluster, as for M(holdfast.persistence.valkey_cluster).
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
        description: Machine that the node runs on. Default is O(nodes[].address).
        type: str
      zone:
        description: Failure domain of the host.
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
        description: Nodes that are V(absent) are not checked.
        type: str
        choices: [present, absent]
        default: present
  replicas:
    description: Least number of replicas for each primary.
    type: int
    default: 1
  lag_warning:
    description: Bytes that a replica may be behind its primary without a warning.
    type: int
    default: 1048576
  lag_critical:
    description: Bytes behind its primary from which a replica's lag is critical.
    type: int
    default: 67108864
  silence:
    description: Seconds that a replica's link may carry nothing.
    type: int
    default: 30
  fail_on:
    description: The task fails when a finding is at least this severe.
    type: str
    choices: [none, warning, critical]
    default: critical
extends_documentation_fragment:
  - holdfast.persistence.valkey
attributes:
  check_mode:
    description: Does the same, it only reads.
    support: full
  diff_mode:
    description: There is nothing to show, it only reads.
    support: none
seealso:
  - module: holdfast.persistence.valkey_cluster
"""

EXAMPLES = r"""
- name: Fail when the cluster is in danger
  holdfast.persistence.valkey_replication_check:
    nodes: "{{ valkey_nodes }}"
    replicas: 1
    username: admin
    password: "{{ cluster_valkey_admin_password }}"
    tls: true
    ca_cert: /etc/holdfast/tls/ca.crt
    client_cert: /etc/holdfast/tls/valkey.pem
  run_once: true

- name: Read the findings without failing
  holdfast.persistence.valkey_replication_check:
    nodes: "{{ valkey_nodes }}"
    replicas: 1
    fail_on: none
  register: check
  run_once: true
"""

RETURN = r"""
findings:
  description: What is not as it should be, worst first.
  returned: always
  type: list
  elements: dict
  sample:
    - rule: replicas_missing
      severity: warning
      where: node1:7001
      found: 1 replicas
      allowed: at least 2
      remedy: "Bring the missing nodes back; if all are there: run site.yml (or valkey_cluster), which repairs it"
  contains:
    rule:
      description: Name of the rule.
      type: str
      sample: replica_on_primary_host
    severity:
      description: How bad it is, C(info), C(warning) or C(critical).
      type: str
    where:
      description: Node, host, zone or slots that it is about.
      type: str
    found:
      description: What was read.
      type: str
    allowed:
      description: What the rule allows.
      type: str
    remedy:
      description: What to do about it.
      type: str
worst:
  description: Highest severity found, null without findings.
  returned: always
  type: str
  sample: warning
"""

from dataclasses import replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.holdfast.persistence.plugins.module_utils import findings
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import connection, functions, rules, shape
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.cluster import Cluster
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Fleet, ValkeyError
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.nodes import NODE_OPTIONS, declared_node

ARGUMENTS: dict[str, Any] = {
    "nodes": {"type": "list", "elements": "dict", "required": True, "options": NODE_OPTIONS},
    "replicas": {"type": "int", "default": 1},
    "lag_warning": {"type": "int", "default": 1048576},
    "lag_critical": {"type": "int", "default": 67108864},
    "silence": {"type": "int", "default": 30},
    "fail_on": {"type": "str", "choices": list(findings.FAIL_ON), "default": "critical"},
    **connection.argument_spec(),
}


def look(module: AnsibleModule) -> list[findings.Finding]:
    """Ask the servers and return the findings. Raises Refusal, ValkeyError."""
    declared = [declared_node(item) for item in module.params["nodes"]]
    shape.check_declaration(declared)
    limits = rules.Limits(**{n: module.params[n] for n in ("replicas", "lag_warning", "lag_critical", "silence")})
    with Fleet(connection.options_from(module.params)) as fleet:
        endpoints = [node.endpoint for node in declared]
        errors = {endpoint: error.problem for endpoint, error in fleet.connect(endpoints).items()}
        states = Cluster(fleet, [endpoint for endpoint in endpoints if endpoint not in errors]).observe()
        serving = [e for e, s in states.items() if s.view.myself.is_primary and s.view.myself.slots]
        for endpoint, libraries in functions.read(fleet, serving).items():
            states[endpoint] = replace(states[endpoint], libraries=libraries)
    return rules.check(declared, states, errors, limits)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    if connection.library is None:
        module.fail_json(msg=missing_required_lib("valkey or redis"), exception=connection.LIBRARY_ERROR)
    try:
        found = look(module)
    except (ValkeyError, Refusal) as error:
        module.fail_json(msg=str(error))
    result = {"findings": [findings.to_dict(finding) for finding in found], "worst": findings.worst(found)}
    bad = findings.at_least(found, module.params["fail_on"])
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        module.fail_json(msg=f"{bad[0]}{more}", **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
