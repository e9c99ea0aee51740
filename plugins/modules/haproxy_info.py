#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that reads where HAProxy routes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: haproxy_info
short_description: Read which servers HAProxy routes to
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Reads C(show stat) from HAProxy's administration socket.
options:
  socket:
    description: Path of HAProxy's administration socket.
    type: path
    default: /run/haproxy/admin.sock
  must_answer:
    description: Whether it is an error when HAProxy does not answer. When V(false), RV(error) tells.
    type: bool
    default: true
  timeout:
    description: Time for the answer, in seconds.
    type: float
    default: 5
attributes:
  check_mode:
    description: It only reads.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Read the routes
  holdfast.persistence.haproxy_info:
  become: true

- name: Fail where no server of the primary's route is up
  ansible.builtin.assert:
    that: haproxy.backends.read_write_members.servers | selectattr('up') | length > 0
"""

RETURN = r"""
error:
  description: Why HAProxy did not answer, empty when it did.
  type: str
  returned: success
  sample: "/run/haproxy/admin.sock: No such file or directory"
frontends:
  description: Front ends by name, with their number of sessions.
  type: dict
  returned: success
  sample: {read_write: {status: OPEN, sessions: 3}}
backends:
  description: Back ends by name, with their servers.
  type: dict
  returned: success
  sample:
    read_write_members:
      status: UP
      servers:
        - name: node1
          status: UP
          up: true
          address: 198.18.7.11:5432
          sessions: 3
          check: L7OK 200
          seconds_since_change: 60
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.haproxy.runtime import ask
from ansible_collections.holdfast.persistence.plugins.module_utils.haproxy.stats import parse_stats
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "socket": {"type": "path", "default": "/run/haproxy/admin.sock"},
            "must_answer": {"type": "bool", "default": True},
            "timeout": {"type": "float", "default": 5},
        },
        supports_check_mode=True,
    )
    path = module.params["socket"]
    try:
        result = {"error": "", **parse_stats(ask(path, "show stat", module.params["timeout"]))}
    except OSError as error:
        message = f"{path}: {error.strerror or error}"
        if module.params["must_answer"]:
            module.fail_json(
                msg=f"HAProxy does not answer: {message}. Check whether the service runs: systemctl status haproxy"
            )
        result = {"error": message, "frontends": {}, "backends": {}}
    except Refusal as error:
        module.fail_json(msg=f"{path}: {error}")
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
