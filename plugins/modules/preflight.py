#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Documentation of the action plugin preflight, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Judge an inventory and its hosts before anything is changed
version_added: 0.1.0
author: The holdfast.persistence authors (@holdfast)
description:
  - Reads all groups, the variables that matter and what M(holdfast.persistence.host_probe) and
    M(holdfast.persistence.package_probe) saw on each host, and applies every rule.
  - Fails once, with all problems of the inventory, each with the place, what was found, what is allowed and what to do.
  - It is an action plugin that runs on the controller. Run it once a play. It changes nothing.
  - Variables that the operator did not set have the roles' defaults.
attributes:
  check_mode:
    description: The action only reads.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
options:
  skip_rules:
    description: Names of rules whose problems the operator accepts.
    type: list
    elements: str
    default: []
  extra_groups:
    description: Names of groups that belong to somebody else.
    type: list
    elements: str
    default: []
  extra_variables:
    description: Names of variables that look like a role's but belong to somebody else.
    type: list
    elements: str
    default: []
  free_mib:
    description: Least free room on each file system that holds data, in MiB.
    type: int
    default: 2048
  details:
    description: Whether to return the problems as data, too; without it a failure shows nothing but the list.
    type: bool
    default: true
  probe:
    description: Name of the variable in which each host's result of M(holdfast.persistence.host_probe) was registered.
    type: str
    default: __preflight_probe
  leaving_host:
    description: Name of a host that is about to leave; judged is the inventory that it leaves, and of that only its shape.
    type: str
    default: ""
  leaving_groups:
    description: Names of the groups that O(leaving_host) leaves.
    type: list
    elements: str
    default: []
  packages:
    description: Name of the variable in which each host's result of M(holdfast.persistence.package_probe) was registered.
    type: str
    default: __preflight_packages
seealso:
  - module: holdfast.persistence.host_probe
  - module: holdfast.persistence.package_probe
"""

EXAMPLES = r"""
- name: Look at every host
  holdfast.persistence.host_probe:
  register: __preflight_probe

- name: Judge the inventory, knowing that one etcd member is not much
  holdfast.persistence.preflight:
    skip_rules: [etcd_single]
  run_once: true

- name: Judge what one host less in etcd would be
  holdfast.persistence.preflight:
    leaving_host: node5
    leaving_groups: [etcd]
  run_once: true
"""

RETURN = r"""
msg:
  description: All problems as a numbered list.
  type: str
  returned: always
  sample: "1 problem found; no host was changed.\n  1. group etcd: found 2 members; allowed an odd number, 3 or 5 ... [etcd_members]"
problems:
  description: What must be corrected.
  type: list
  elements: dict
  returned: when O(details) is true
  sample:
    - rule: valkey_user_reserved
      severity: problem
      where: node1, node2, node3/valkey_users
      hosts: [node1, node2, node3]
      subject: valkey_users
      found: a user named admin
      allowed: any name but admin, default, replication, respread, which the role itself uses
      remedy: choose another name
  contains:
    rule:
      description: Name of the rule, as O(skip_rules) takes it.
      type: str
    severity:
      description: Either V(problem) or V(warning).
      type: str
    where:
      description: Hosts and variable in one string.
      type: str
    hosts:
      description: Names of the hosts; none if the inventory as a whole is meant.
      type: list
      elements: str
    subject:
      description: The variable, group, path or port.
      type: str
    found:
      description: What was found. Secrets are never shown.
      type: str
    allowed:
      description: What would be right.
      type: str
    remedy:
      description: What to do.
      type: str
advice:
  description: What should be looked at but does not stop a run, in the form of RV(problems).
  type: list
  elements: dict
  returned: when O(details) is true
  sample: []
accepted:
  description: Problems of the rules in O(skip_rules), in the form of RV(problems).
  type: list
  elements: dict
  returned: when O(details) is true
  sample: []
"""
