#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Documentation of the action plugin contract, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: contract
short_description: Check the variables of a playbook of this collection, and give them their types
version_added: 0.2.0
author: The holdfast.persistence authors (@holdfast)
description:
  - Reads the specification of a playbook, C(playbooks/specs/NAME.yml), and those of the playbooks that it runs.
  - Fails with all that is wrong at once, before anything changes. That is a name of C(--extra-vars) that is not known, where it has
    the prefix of a variable that is or is almost its name; a value that an option does not allow; a variable of a role in
    another type than the role declares.
  - Fails, too, where C(--tags) names none of the playbook's, or where the groups that it works on have no host, as it would do nothing.
  - Names of the operator's own and those that begin with C(ansible_) pass, and so do those in C(preflight_extra_variables).
  - Prints what the playbook takes and fails where the variable C(help) is true.
  - It is an action plugin that runs on the controller. Run it once a play. It changes nothing.
attributes:
  check_mode:
    description: The action only reads.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
options:
  playbook:
    description: Name of the playbook, without its suffix.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Refuse variables that are not known, and give the others their types
  holdfast.persistence.contract:
    playbook: switchover
  register: contract
  run_once: true

- name: Ask what a restore would be given
  holdfast.persistence.contract:
    playbook: restore_valkey
  register: contract
  run_once: true
"""

RETURN = r"""
options:
  description: Every option of the playbook and of those that it runs, with its value or its default in the type that is declared.
  type: dict
  returned: success
  sample: {switchover_candidate: node2, switchover_hold: 15}
"""
