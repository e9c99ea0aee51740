#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Documentation of the action plugin `screen`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: screen
short_description: Show a cluster, or what is wrong with it, on one screen
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Makes one picture of the answers of several modules and prints it, as text for a person or as JSON for a program.
    It prints by itself, so that the text looks the same with every callback.
  - With O(view=check) it judges the picture, prints every finding with its remedy, and fails from O(fail_on) on.
  - Used by the playbooks C(status.yml) and C(check.yml). It runs on the controller and connects to nothing.
options:
  view:
    description: Whether to show the cluster or the findings.
    type: str
    choices: [status, check]
    default: status
  format:
    description: What to print.
    type: str
    choices: [text, json]
    default: text
  cluster:
    description: Name of the cluster.
    type: str
    required: true
  timing:
    description: Name of the timing profile.
    type: str
    required: true
  vip:
    description: Virtual address, empty for none.
    type: str
    default: ""
  addresses:
    description: Address of each host by its name.
    type: dict
    required: true
  declared:
    description: Patroni's timings as the inventory wants them, in seconds.
    type: dict
    default: {}
  authority:
    description: File on the controller with the certificates of the cluster's authorities, of which hosts must trust one.
    type: path
    default: ""
  engines:
    description: What the inventory has.
    type: list
    elements: str
    choices: [patroni, etcd, valkey]
    required: true
  answers:
    description:
      - Results of modules. Each list has one entry for each host of O(addresses), in the same order.
      - An entry is empty where the host was not asked.
    type: dict
    required: true
    suboptions:
      host:
        description: Results of M(holdfast.persistence.ask) with M(holdfast.persistence.host_status).
        type: list
        elements: dict
        required: true
      haproxy:
        description: Results of M(holdfast.persistence.haproxy_info).
        type: list
        elements: dict
        required: true
      pgbouncer:
        description: Results of M(holdfast.persistence.pgbouncer_info).
        type: list
        elements: dict
        required: true
      patroni:
        description: Results of M(holdfast.persistence.ask) with M(holdfast.persistence.patroni_cluster_info).
        type: list
        elements: dict
        required: true
      etcd:
        description: Results of M(holdfast.persistence.ask) with M(holdfast.persistence.etcd_cluster_info).
        type: list
        elements: dict
        required: true
      valkey:
        description: Results of M(holdfast.persistence.ask) with M(holdfast.persistence.valkey_cluster_info).
        type: list
        elements: dict
        required: true
      backup:
        description: Results of M(holdfast.persistence.ask) with M(holdfast.persistence.backup_info).
        type: list
        elements: dict
        default: []
      asked:
        description: Results of M(holdfast.persistence.ask) with M(holdfast.persistence.routing_info).
        type: list
        elements: dict
        default: []
      served:
        description: Results of M(holdfast.persistence.ask) with M(holdfast.persistence.tls_check).
        type: list
        elements: dict
        default: []
      programs:
        description: Results of M(holdfast.persistence.program) with O(holdfast.persistence.program#module:look=true).
        type: list
        elements: dict
        default: []
  checks:
    description: Results of M(holdfast.persistence.ask) with the check modules of engines, one entry for each host.
    type: dict
    default: {}
    suboptions:
      postgresql:
        description: Results of M(holdfast.persistence.postgresql_replication_check).
        type: list
        elements: dict
        default: []
      valkey:
        description: Results of M(holdfast.persistence.valkey_replication_check).
        type: list
        elements: dict
        default: []
  certificate_days_warning:
    description: A certificate that lasts this many days or fewer is a warning.
    type: int
    default: 30
  certificate_days_critical:
    description: A certificate that lasts this many days or fewer is critical.
    type: int
    default: 7
  fail_on:
    description: With O(view=check), the mildest severity at which the task fails.
    type: str
    choices: [none, warning, critical]
    default: critical
attributes:
  check_mode:
    description: It changes nothing.
    support: full
  diff_mode:
    description: There is no difference to show.
    support: none
"""

EXAMPLES = r"""
- name: Show the cluster
  holdfast.persistence.screen:
    cluster: "{{ cluster_name }}"
    timing: "{{ patroni_timing | default('fast') }}"
    vip: "{{ cluster_vip }}"
    addresses: "{{ cluster_addresses }}"
    engines: [patroni, etcd]
    answers:
      host: "{{ groups['all'] | map('extract', hostvars) | map(attribute='status_host', default={}) }}"
      haproxy: "{{ groups['all'] | map('extract', hostvars) | map(attribute='status_haproxy', default={}) }}"
      pgbouncer: "{{ groups['all'] | map('extract', hostvars) | map(attribute='status_pgbouncer', default={}) }}"
      patroni: "{{ groups['all'] | map('extract', hostvars) | map(attribute='status_patroni', default={}) }}"
      etcd: "{{ groups['all'] | map('extract', hostvars) | map(attribute='status_etcd', default={}) }}"
      valkey: "{{ groups['all'] | map('extract', hostvars) | map(attribute='status_valkey', default={}) }}"
  run_once: true

- name: Fail where a rule of the check is broken, and print JSON
  holdfast.persistence.screen:
    view: check
    format: json
    fail_on: warning
    cluster: "{{ cluster_name }}"
    timing: "{{ patroni_timing | default('fast') }}"
    addresses: "{{ cluster_addresses }}"
    engines: [patroni]
    answers:
      patroni: "{{ groups['all'] | map('extract', hostvars) | map(attribute='status_patroni', default={}) }}"
  run_once: true
"""

RETURN = r"""
msg:
  description: How many findings of each severity made the task fail.
  type: str
  returned: failure
  sample: "orders: 1 critical, 2 warning; each is listed above with its remedy"
"""
