#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Documentation of the action plugin kubernetes_manifests, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kubernetes_manifests
short_description: Write the tier of an inventory as manifests for Kubernetes
version_added: 0.2.0
author: The holdfast.persistence authors (@holdfast)
description:
  - Writes a cluster of CloudNativePG and a StatefulSet of Valkey that have what the inventory declares, and the Secrets for them.
  - It is an action plugin that runs on the controller. It reads the inventory and contacts neither its hosts nor Kubernetes.
  - What CloudNativePG would refuse, or Kubernetes could not run, is refused before anything is written.
options:
  options:
    description: The options of the playbook C(kubernetes.yml), by name, each with its value.
    type: dict
    required: true
attributes:
  check_mode:
    description: Says what would be written. Missing secrets are made anyway, as everywhere; certificates are not.
    support: full
  diff_mode:
    description: Shows the lines that change, except of Secrets.
    support: full
seealso:
  - module: holdfast.persistence.valkey_meet
"""

EXAMPLES = r"""
- name: Write the manifests
  holdfast.persistence.kubernetes_manifests:
    options: "{{ __options }}"
  delegate_to: localhost
  run_once: true

- name: Show what would change in the manifests
  holdfast.persistence.kubernetes_manifests:
    options: "{{ __options }}"
  delegate_to: localhost
  run_once: true
  check_mode: true
  diff: true
"""

RETURN = r"""
folder:
  description: Where the manifests are.
  type: str
  returned: success
  sample: /srv/inventories/orders/.secrets/kubernetes
changed_paths:
  description: What was written; in check mode what would be.
  type: list
  elements: str
  returned: success
  sample: [/srv/inventories/orders/.secrets/kubernetes/secrets.yml]
stale:
  description: Files of an earlier run that are no longer part of the tier. They are left for somebody to delete.
  type: list
  elements: str
  returned: success
  sample: []
issued:
  description: Why certificates were issued, by what they are for; in check mode would be.
  type: dict
  returned: success
  sample: {valkey: is missing}
"""
