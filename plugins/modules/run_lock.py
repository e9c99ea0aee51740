#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that notes on a host who works on the cluster, and refuses a second one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: run_lock
short_description: Let only one run of a playbook at a time change the cluster
version_added: 0.2.0
author: The holdfast.persistence authors (@holdfast)
description:
  - Notes on the host who works on the cluster. A second run is refused, and told who that is, as long as the first one lives.
  - Its action plugin starts a small process on the controller, which renews the note until ansible-playbook ends, in whatever way, and then
    deletes it. A controller that is gone renews nothing, and the note is void a minute later.
  - In check mode nothing is noted and nobody is refused.
options:
  path:
    description: File of the note. It is gone after a boot.
    type: path
    default: /run/holdfast/run.lock
  id:
    description: What tells the run from others. The action plugin gives it.
    type: str
    required: true
  who:
    description: User, controller and playbook, for people. The action plugin gives it.
    type: str
    required: true
  dead:
    description: The run of this O(id) is known to be dead; its note is void. The action plugin gives it.
    type: str
    default: ""
  seconds:
    description: For how long a note that nobody renews is valid.
    type: int
    default: 60
attributes:
  check_mode:
    description: Nothing is noted.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Refuse while another run changes the cluster
  holdfast.persistence.run_lock:
  become: true

- name: Wait longer until a run counts as dead
  holdfast.persistence.run_lock:
    seconds: 300
  become: true
"""

RETURN = r"""
taken:
  description: Whether the note was made now; not where this run had made it already.
  type: bool
  returned: success
  sample: true
holder:
  description: What tells the other run from others.
  type: str
  returned: where another run is refused
  sample: "controller:41832:1284519"
"""

import json
import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import (
    make_folders,
    read_text,
    replace_file,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.files.lock import locked

# What a task may give; the action plugin adds whose lock this is.
ARGUMENTS = {
    "path": {"type": "path", "default": "/run/holdfast/run.lock"},
    "seconds": {"type": "int", "default": 60},
}
GUARD_SECONDS = 10


def holder(path: str, seconds: int) -> dict[str, str]:
    """Return the note that is valid, empty if there is none."""
    try:
        age = time.time() - os.stat(path).st_mtime
        note = json.loads(read_text(path) or "{}")
    except (FileNotFoundError, ValueError):
        return {}
    # A clock that was set back makes no note valid for ever.
    whole = isinstance(note, dict) and {"id", "who"} <= set(note)
    return note if whole and abs(age) < seconds else {}


def take(path: str, mine: dict[str, str], seconds: int, dead: str = "") -> tuple[bool, dict[str, str]]:
    """Make the note unless another run than the dead one has it; return (whether it was made now, the note of whoever had it).

    Raises OSError.
    """
    make_folders(os.path.dirname(path))
    guard = os.open(path + ".guard", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not locked(guard, GUARD_SECONDS):
            return False, {"id": "", "who": "Another run that begins at this moment"}
        found = holder(path, seconds)
        if found and found["id"] not in (mine["id"], dead):
            return False, found
        replace_file(path, json.dumps(mine) + "\n", mode=0o600)
        return not found or found["id"] == dead, {}
    finally:
        os.close(guard)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "id": {"type": "str", "required": True},
            "who": {"type": "str", "required": True},
            "dead": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    if module.check_mode:
        module.exit_json(changed=False, taken=False)
    try:
        taken, other = take(
            params["path"], {"id": params["id"], "who": params["who"]}, params["seconds"], params["dead"]
        )
    except OSError as error:
        module.fail_json(msg=f"run_lock: {error}")
    if other:
        module.fail_json(
            holder=other["id"],
            msg=f"Nothing was changed. {other['who']} is changing this cluster now: wait until that run has ended, then run again. "
            f"A run that is dead is forgotten after {params['seconds']} s.",
        )
    module.exit_json(changed=False, taken=taken)


if __name__ == "__main__":
    main()
