#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Documentation of the action plugin `program`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: program
short_description: Install the collection's programs on a host and keep them running
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - A program of the collection is one file C(roles/ROLE/files/NAME.py) with a function C(main) that returns the exit status. Dashes
    of its name are underscores there.
  - On the host it gets the folder C(/usr/local/lib/holdfast/programs/NAME) with all code of the collection that it imports, and
    nothing else. The code is found by reading import statements on the controller. A folder is replaced as a whole.
  - Unit files beside the program, C(NAME.path), C(NAME.timer) and C(NAME.service), are installed. The first of them that there is
    is enabled and started. A service is restarted where its code, settings or unit changed.
  - C(/usr/bin/python3 -I /usr/local/lib/holdfast/programs/NAME --version) tells the version of any program.
  - What releases up to 0.1 left of the programs is deleted once nothing on the host uses it.
options:
  programs:
    description: The programs.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the program.
        type: str
        required: true
      state:
        description: V(absent) stops the program's units and deletes all that belongs to it.
        type: str
        choices: [present, absent]
        default: present
      settings:
        description: What the program reads as JSON. No settings if not given.
        type: dict
      settings_file:
        description: Path of the settings, C(/etc/holdfast/NAME.json) if not given.
        type: path
      user:
        description: Who runs the program. Only this user and root read the settings.
        type: str
        default: root
      sensitive:
        description: Never show the settings in a diff.
        type: bool
        default: false
      files:
        description: More files of the program, as M(holdfast.persistence.files) takes them.
        type: list
        elements: dict
        default: []
      command:
        description: Path of an executable file that starts the program, for those who call it by hand or by their own configuration.
        type: path
  look:
    description: Only tell how the programs are. The task needs C(check_mode) V(true), and does not fail where the host cannot tell.
    type: bool
    default: false
requirements:
  - The Python packages on the host that the program imports
attributes:
  check_mode:
    description: Says what would be installed, written, restarted and deleted.
    support: full
  diff_mode:
    description: Shows the lines of code and settings that change.
    support: full
"""

EXAMPLES = r"""
- name: Install the program that lets a replica follow a new leader, and run it
  holdfast.persistence.program:
    programs:
      - name: patroni-follow
        user: postgres
        settings:
          host: /var/run/postgresql
          port: 5432

- name: Tell how it is
  holdfast.persistence.program:
    programs:
      - name: patroni-follow
    look: true
  check_mode: true
"""

RETURN = r"""
programs:
  description:
    - How each program that belongs here was found. C(state) is V(current), V(missing), V(outdated) (another build) or V(altered).
    - C(version) and C(wanted) are what its file VERSION holds and should hold, C(found) says it in words.
  type: list
  elements: dict
  returned: success
  sample: [{"name": "patroni-follow", "state": "outdated", "version": "0.1.0 1f0c52bb9d1e", "wanted": "0.2.0 77aa0c9b2f3e",
    "found": "version 0.1.0 1f0c52bb9d1e"}]
called:
  description: What an earlier release left and a unit of another name still starts. It may be deleted when no unit does.
  type: list
  elements: str
  returned: success
  sample: [/usr/local/lib/holdfast/holdfast-backup]
restarted:
  description: Units that were restarted; in check mode those that would be.
  type: list
  elements: str
  returned: success
  sample: [patroni-follow.service]
errors:
  description: With O(look=true), why the host could not tell.
  type: list
  elements: str
  returned: when O(look=true)
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENTS = {
    "programs": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "settings": {"type": "dict"},
            "settings_file": {"type": "path"},
            "user": {"type": "str", "default": "root"},
            "sensitive": {"type": "bool", "default": False},
            "files": {"type": "list", "elements": "dict", "default": []},
            "command": {"type": "path"},
        },
    },
    "look": {"type": "bool", "default": False},
}


def main() -> None:
    """Refuse to run without the action of the same name."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    module.fail_json(
        msg="holdfast.persistence.program is an action: call it by this full name, so that Ansible finds it"
    )


if __name__ == "__main__":
    main()
