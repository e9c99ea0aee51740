#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Documentation of the action tls_rotation, which does its work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tls_rotation
short_description: Take a step of a rotation of certificates, in their folder on the controller
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Changes the folder that M(holdfast.persistence.tls_files) issues from; that module then issues and places what the step asks for.
  - A step that is under way can be taken again and continues. Another one is refused until it is proven.
  - Used by the playbook C(rotate_certificates.yml). It runs on the controller and connects to nothing.
options:
  folder:
    description: Folder on the controller with C(ca.crt) and C(ca.key).
    type: path
    required: true
  organization:
    description: Organization in the subject of a new authority.
    type: str
    required: true
  step:
    description:
      - V(leaves) issues all certificates anew by the authority that is there.
      - V(begin) makes a new authority that is trusted beside the old one. V(switch) issues by it. V(finish) ends the trust in the old one.
        Each issues all certificates anew, as some servers read the trusted ones only together with a new certificate of their own.
    type: str
    choices: [leaves, begin, switch, finish]
    required: true
  proven:
    description: Note that every host is as the step wants it, in place of taking it.
    type: bool
    default: false
  ca_days:
    description: Days for which a new authority is valid.
    type: int
    default: 3650
requirements:
  - cryptography >= 42 (on the controller)
attributes:
  check_mode:
    description: Says what would be done in the folder.
    support: full
  diff_mode:
    description: There is no difference to show; RV(steps) says everything.
    support: none
"""

EXAMPLES = r"""
- name: Trust a new authority beside the old one
  holdfast.persistence.tls_rotation:
    folder: "{{ inventory_dir }}/.secrets/tls"
    organization: example
    step: begin
  run_once: true

- name: Say what the last step of a rotation would do
  holdfast.persistence.tls_rotation:
    folder: "{{ inventory_dir }}/.secrets/tls"
    organization: example
    step: finish
  run_once: true
  check_mode: true
"""

RETURN = r"""
step:
  description: The step under way, empty for none.
  type: str
  returned: success
  sample: begin
steps:
  description: What was done in the folder; in check mode what would be done.
  type: list
  elements: str
  returned: success
  sample: [make the key of a new authority]
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENTS = {
    "folder": {"type": "path", "required": True},
    "organization": {"type": "str", "required": True},
    "step": {"type": "str", "choices": ["leaves", "begin", "switch", "finish"], "required": True},
    "proven": {"type": "bool", "default": False},
    "ca_days": {"type": "int", "default": 3650},
}


def main() -> None:
    """Refuse to run without the action of the same name."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    module.fail_json(msg="tls_rotation works on the controller; it was run on a host without its action plugin")


if __name__ == "__main__":
    main()
