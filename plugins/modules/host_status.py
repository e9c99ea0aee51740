#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that reads services, addresses and certificates of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_status
short_description: Read whether a host's services run, its addresses, and how long its certificates last
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Reads all that a status screen shows of a host itself, in one task.
options:
  units:
    description: Names of systemd units.
    type: list
    elements: str
    default: []
  held:
    description: Whether it is looked at who may restart the O(units).
    type: bool
    default: false
  certificates:
    description: Folder whose files C(*.crt) and C(*.pem) are certificates. Empty where it does not exist.
    type: path
    default: /etc/ssl/holdfast
attributes:
  check_mode:
    description: It only reads.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Look at the host
  holdfast.persistence.host_status:
    units: [patroni.service, etcd.service]
  become: true

- name: See what would restart a service by itself
  holdfast.persistence.host_status:
    units: [patroni.service, etcd.service]
    held: true
  become: true
"""

RETURN = r"""
units:
  description: State of each unit, in the order asked.
  type: list
  elements: dict
  returned: success
  sample:
    - {name: patroni.service, state: active, since: "Sun 2026-11-22 23:30:00 UTC"}
addresses:
  description: Addresses of the host, without loopback's.
  type: list
  elements: str
  returned: success
  sample: ["198.18.7.11", "198.18.7.100"]
certificates:
  description: Days that each certificate still lasts, negative once it is over.
  type: list
  elements: dict
  returned: success
  sample:
    - {file: postgresql.pem, days_left: 364}
restarted_by:
  description: What restarts some of O(units) by itself, after an upgrade of packages. Empty unless O(held).
  type: list
  elements: str
  returned: success
  sample: ["packages, patroni.service"]
authorities:
  description: SHA-256 digests of the certificates in C(ca.crt) of O(certificates).
  type: list
  elements: str
  returned: success
  sample: [7ea24e0b9486ad28997e5d3731b8b80603bff9e4b48fb0b6421adc6312e95c20]
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.status.host import (
    days_left,
    parse_addresses,
    parse_units,
    split_certificates,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.tls.authority import digests

POLICY = "/usr/sbin/policy-rc.d"
# Answer of the policy that forbids what it was asked for (invoke-rc.d(8)).
FORBIDDEN = 101
NEEDRESTART = "/usr/sbin/needrestart"
OVERRIDES = "/etc/needrestart/conf.d/holdfast.conf"
PROPERTIES = "Id,LoadState,ActiveState,SubState,ActiveEnterTimestamp"


def run(module: AnsibleModule, program: str, *arguments: str) -> str:
    """Return the output of a program; its failure ends the module."""
    _code, out, _err = module.run_command([module.get_bin_path(program, required=True), *arguments], check_rc=True)
    return out


def read_certificates(module: AnsibleModule, folder: str) -> list[dict[str, object]]:
    """Return the days left of each certificate in the folder."""
    if not os.path.isdir(folder):
        return []
    names = sorted(name for name in os.listdir(folder) if name.endswith((".crt", ".pem")))
    now = time.time()
    return [{"file": name, "days_left": soonest(module, os.path.join(folder, name), now)} for name in names]


def soonest(module: AnsibleModule, path: str, now: float) -> int:
    """Return the days left of the certificate in a file that ends first: there are several while an authority is replaced."""
    with open(path, encoding="utf-8") as stream:
        certificates = split_certificates(stream.read())
    program = [module.get_bin_path("openssl", required=True), "x509", "-noout", "-enddate"]
    ends = [module.run_command(program, data=text, check_rc=True)[1] for text in certificates]
    return min(days_left(end, now) for end in ends)


def restarters(module: AnsibleModule, units: list[str]) -> list[str]:
    """Return what may restart the units by itself."""
    free = [unit for unit in units if not forbidden(module, unit)]
    found = [f"packages, {unit}" for unit in free]
    if os.path.exists(NEEDRESTART) and not os.path.exists(OVERRIDES):
        found.append("needrestart")
    return found


def forbidden(module: AnsibleModule, unit: str) -> bool:
    """Return whether the host's policy keeps packages from restarting a unit. None at all allows everything."""
    return os.access(POLICY, os.X_OK) and module.run_command([POLICY, unit, "restart"])[0] == FORBIDDEN


def read_authorities(folder: str) -> list[str]:
    """Return the digests of the authorities that the host trusts; none without a file."""
    path = os.path.join(folder, "ca.crt")
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as stream:
        return digests(stream.read())


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "units": {"type": "list", "elements": "str", "default": []},
            "held": {"type": "bool", "default": False},
            "certificates": {"type": "path", "default": "/etc/ssl/holdfast"},
        },
        supports_check_mode=True,
    )
    units = module.params["units"]
    module.exit_json(
        changed=False,
        units=parse_units(run(module, "systemctl", "show", f"--property={PROPERTIES}", *units)) if units else [],
        addresses=parse_addresses(run(module, "ip", "-json", "address", "show")),
        certificates=read_certificates(module, module.params["certificates"]),
        restarted_by=restarters(module, units) if module.params["held"] else [],
        authorities=read_authorities(module.params["certificates"]),
    )


if __name__ == "__main__":
    main()
