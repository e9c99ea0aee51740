#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Documentation of the action plugin export_inventory, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: export_inventory
short_description: Write the inventory that would keep a running cluster
version_added: 0.2.0
author: The holdfast.persistence authors (@holdfast)
description:
  - Writes hosts, groups and variables out of what M(holdfast.persistence.cluster_facts) and M(holdfast.persistence.host_probe) read on
    every host of the play. Variables that would be the roles' own defaults are left out.
  - What can't be kept, what has to be decided and which secrets have to be brought stands in comments beside the variables, and in a
    README.md.
  - It is an action plugin that runs on the controller. It contacts no host and writes no secret.
  - A folder that has something else in it is refused, unless O(overwrite) is true; then the files of the inventory are replaced and all
    others left.
options:
  folder:
    description: Folder for the inventory.
    type: path
    required: true
  overwrite:
    description: Whether files of an inventory that is there are replaced.
    type: bool
    default: false
  facts:
    description: Name of the variable in which each host's result of M(holdfast.persistence.cluster_facts) was registered.
    type: str
    default: __export_facts
  probe:
    description: Name of the variable in which each host's result of M(holdfast.persistence.host_probe) was registered.
    type: str
    default: __export_probe
attributes:
  check_mode:
    description: Says what would be written.
    support: full
  diff_mode:
    description: Shows the lines that change.
    support: full
seealso:
  - module: holdfast.persistence.cluster_facts
"""

EXAMPLES = r"""
- name: Write the inventory
  holdfast.persistence.export_inventory:
    folder: /srv/inventories/orders
  delegate_to: localhost
  run_once: true

- name: Write it again after a change of the cluster, and see what changed
  holdfast.persistence.export_inventory:
    folder: /srv/inventories/orders
    overwrite: true
  delegate_to: localhost
  run_once: true
  diff: true
"""

RETURN = r"""
folder:
  description: Where the inventory is.
  type: str
  returned: success
  sample: /srv/inventories/orders
changed_paths:
  description: What was written; in check mode what would be.
  type: list
  elements: str
  returned: success
  sample: [/srv/inventories/orders/hosts.yml]
notes:
  description: What the inventory does not simply keep, each with V(area), V(kind) (V(secret), V(decide) or V(lost)), V(about) and V(text).
  type: list
  elements: dict
  returned: success
  sample:
    - area: postgresql
      kind: decide
      about: patroni_dynamic_config
      text: primary_start_timeout of the profile standard, the nearest, are the cluster's own
stale:
  description: Files of an earlier inventory that are no longer part of it. They are left for somebody to delete.
  type: list
  elements: str
  returned: success
  sample: [/srv/inventories/orders/group_vars/all/valkey.yml]
"""
