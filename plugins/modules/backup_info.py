#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that reads the catalogue of backups."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_info
short_description: Read the catalogue of backups of every engine and repository
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Asks the stores themselves each time - pgBackRest's repositories, the folders of dumps and of Valkey's backups, the places off
    site - so that the list can't drift from what is there.
  - Runs on a host that the role P(holdfast.persistence.backup#role) has set up, and changes nothing.
options:
  config:
    description: Path of the program's configuration.
    type: path
    default: /etc/holdfast/backup.json
  deep:
    description: Whether every local file is read and compared with its digest.
    type: bool
    default: false
  metrics:
    description: Whether to return the text that Prometheus reads, too.
    type: bool
    default: false
attributes:
  check_mode:
    description: It changes nothing.
    support: full
  diff_mode:
    description: There is no difference to show.
    support: none
"""

EXAMPLES = r"""
- name: Read the catalogue
  holdfast.persistence.backup_info:
  register: catalogue

- name: Fail where no PostgreSQL backup was ever proved
  ansible.builtin.assert:
    that: catalogue.summary | selectattr('engine', 'equalto', 'postgresql') | selectattr('proved') | length > 0
"""

RETURN = r"""
backups:
  description: Every backup in every place, the newest first.
  type: list
  elements: dict
  returned: success
  sample:
    - {engine: postgresql, kind: full, label: 20261126-041243F, repository: main, start: '2026-11-26T04:12:43.000Z',
       end: '2026-11-26T04:13:05.000Z', bytes: 4194304, position: {lsn: 0/3000100, timeline: 1}, good: true, proved: null}
summary:
  description: For each engine how many good backups there are, the last good one and the last proved one.
  type: list
  elements: dict
  returned: success
  sample:
    - engine: postgresql
      count: 7
      good: {engine: postgresql, kind: full, label: 20261126-041243F, repository: main, start: '2026-11-26T04:12:43.000Z',
            end: '2026-11-26T04:13:05.000Z', bytes: 4194304, position: {lsn: 0/3000100, timeline: 1}, good: true, proved: null}
      proved: null
repositories:
  description: By name, why a place can't be read; empty where it can.
  type: dict
  returned: success
  sample: {main: "", offsite: ""}
jobs:
  description: Declared jobs with their last result and the time of their next run in seconds since 1970.
  type: list
  elements: dict
  returned: success
  sample:
    - name: full
      kind: pgbackrest
      calendar: Sun 01:30
      since: 1795651200.0
      scheduled: true
      next: 1796002200.0
      last: {state: done, ok: true, end: "2026-11-26T04:13:05.000Z", message: made 20261126-041243F}
      due: null
findings:
  description: What is not as it should be.
  type: list
  elements: dict
  returned: success
  sample:
    - rule: backup_unproved
      severity: critical
      where: postgresql
      found: no backup was ever proved by a restore
      allowed: a proof in the last 8 d
      remedy: Run restore_drill.yml and see what it says.
metrics:
  description: Text in Prometheus's format.
  type: str
  returned: when O(metrics) is true
  sample: "holdfast_backup_good_count{engine=\"postgresql\"} 7\n"
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import collect, context, runner
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "path", "default": context.CONFIG},
            "deep": {"type": "bool", "default": False},
            "metrics": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        host = context.load(module.params["config"])
        report = runner.report(host, deep=module.params["deep"])
        if module.params["metrics"]:
            report["metrics"] = collect.metrics(host, collect.collect(host), report["jobs"])
    except Refusal as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **report)


if __name__ == "__main__":
    main()
