#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that reads which packages of some services would be upgraded, and which services run an old program."""

from __future__ import annotations

DOCUMENTATION = r"""
module: package_status
short_description: Read which packages would be upgraded and which services still run an old program
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Compares the installed versions with what apt would install, as the package lists on the host tell.
  - A service whose program was replaced on disk since it started has to restart, whoever upgraded it, and whenever.
    Of services that an interpreter runs, the time at which their packages were unpacked tells.
options:
  programs:
    description: The services.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the systemd unit, whose main process is looked at; with O(programs[].pid_file) any name.
        type: str
        required: true
      packages:
        description: Packages that the service consists of. Those that are not installed are left out.
        type: list
        elements: str
        required: true
      pid_file:
        description: File whose first line is the number of the process to look at in place of the unit's main process.
        type: path
  upgrades:
    description: Whether to look for newer packages. With V(false) only what runs an old program is told.
    type: bool
    default: true
attributes:
  check_mode:
    description: It only reads.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: See whether etcd is to be upgraded or restarted
  holdfast.persistence.package_status:
    programs:
      - name: etcd.service
        packages: [etcd-server]
  become: true

- name: See which programs run an older version than the disk has
  holdfast.persistence.package_status:
    programs:
      - name: haproxy.service
        packages: [haproxy]
      - name: pgbouncer.service
        packages: [pgbouncer]
  become: true
  register: packages
"""

RETURN = r"""
newer:
  description: Names of the packages that would be upgraded.
  type: list
  elements: str
  returned: success
  sample: [etcd-server]
outdated:
  description: Names of the programs that run an old program.
  type: list
  elements: str
  returned: success
  sample: [etcd.service]
reasons:
  description: Both, one line each.
  type: list
  elements: str
  returned: success
  sample: [etcd-server 3.5.16-4 -> 3.5.16-5, etcd.service runs a program that was replaced on disk]
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.apt.policy import (
    Process,
    Program,
    newer,
    outdated,
    parse_boot_time,
    parse_policy,
    parse_process,
)

DELETED = " (deleted)"


def run_command(module: AnsibleModule, *command: str) -> str:
    """Return the output of a program; its failure ends the module."""
    path = module.get_bin_path(command[0], required=True)
    _code, out, _err = module.run_command([path, *command[1:]], environ_update={"LC_ALL": "C"}, check_rc=True)
    return out


def read(path: str) -> str:
    """Return the content of a file, nothing where it does not exist."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def main_process(module: AnsibleModule, unit: str, pid_file: str | None) -> int:
    """Return the number of the process to look at, 0 where none runs."""
    if pid_file:
        lines = read(pid_file).split()
        return int(lines[0]) if lines and lines[0].isdigit() else 0
    return int(run_command(module, "systemctl", "show", "--property=MainPID", "--value", unit).strip() or 0)


def read_process(pid: int) -> Process | None:
    """Return what /proc tells of a process, None where it does not run."""
    try:
        path = os.readlink(f"/proc/{pid}/exe")
        stat = read(f"/proc/{pid}/stat")
        started = parse_process(stat, parse_boot_time(read("/proc/stat")), os.sysconf("SC_CLK_TCK"))
        place = path.removesuffix(DELETED)
        here = os.stat(f"/proc/{pid}/exe")
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    try:
        on_disk = os.stat(place)
        replaced = path.endswith(DELETED) or (on_disk.st_dev, on_disk.st_ino) != (here.st_dev, here.st_ino)
    except FileNotFoundError:
        replaced = True
    return Process(place, replaced, started)


def unpacked_at(package: str) -> float:
    """Return when a package was unpacked: dpkg writes the list of its files then. 0 where it is not installed."""
    try:
        return os.stat(f"/var/lib/dpkg/info/{package}.list").st_mtime
    except FileNotFoundError:
        return 0.0


def run(module: AnsibleModule) -> dict[str, Any]:
    """Read and compare; return the result of the module."""
    found = module.params["programs"]
    names = sorted({name for item in found for name in item["packages"]})
    packages = []
    if names and module.params["upgrades"]:
        packages = parse_policy(run_command(module, "apt-cache", "policy", *names))
    programs = [
        Program(
            item["name"],
            tuple(item["packages"]),
            read_process(pid) if (pid := main_process(module, item["name"], item["pid_file"])) else None,
            {name: unpacked_at(name) for name in item["packages"]},
        )
        for item in found
    ]
    old = [(program.name, outdated(program)) for program in programs]
    return {
        "changed": False,
        "newer": [package.name for package in packages if package.is_newer],
        "outdated": sorted({name for name, lines in old if lines}),
        "reasons": [*newer(packages), *(line for _name, lines in old for line in lines)],
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "programs": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "packages": {"type": "list", "elements": "str", "required": True},
                    "pid_file": {"type": "path"},
                },
            },
            "upgrades": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    module.exit_json(**run(module))


if __name__ == "__main__":
    main()
