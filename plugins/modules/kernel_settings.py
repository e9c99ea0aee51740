#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that brings running kernel settings to their wished values where the machine allows it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kernel_settings
short_description: Set the running kernel's settings, where the machine allows it
version_added: 0.1.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Compares the running values with the wished ones and writes those that differ.
  - A machine that does not let a setting be changed from the inside (containers) is not an error. All such settings
    are named in RV(skipped_settings) and in one warning. A value that the kernel rejects is an error.
  - It changes the running kernel only; C(/etc/sysctl.d) and C(/etc/tmpfiles.d) hold what is set at boot.
options:
  settings:
    description: Values by sysctl name (V(vm.swappiness)) or by absolute path below C(/sys).
    type: dict
    required: true
attributes:
  check_mode:
    description: Says what would be written.
    support: full
  diff_mode:
    description: Shows the values that change.
    support: full
"""

EXAMPLES = r"""
- name: Set the running kernel
  holdfast.persistence.kernel_settings:
    settings:
      vm.swappiness: 10
      /sys/kernel/mm/transparent_hugepage/enabled: madvise

- name: Fail where the kernel refuses a setting
  holdfast.persistence.kernel_settings:
    settings:
      vm.overcommit_memory: 1
  register: kernel
  failed_when: kernel.skipped_settings | length > 0
"""

RETURN = r"""
skipped_settings:
  description: Why each refused setting was left as it is, by name.
  type: dict
  returned: always
  sample: {vm.swappiness: read-only on this machine}
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.kernel.settings import (
    REFUSALS,
    Setting,
    current,
    explain,
    to_setting,
)


def read(setting: Setting) -> str:
    """Return the value in force. Raises OSError."""
    with open(setting.path, encoding="utf-8") as stream:
        return current(stream.read())


def write(setting: Setting, check_mode: bool) -> None:
    """Write the wished value, or in check mode only see whether the file is writable. Raises OSError."""
    if check_mode:
        os.close(os.open(setting.path, os.O_WRONLY))
        return
    with open(setting.path, "w", encoding="utf-8") as stream:
        stream.write(setting.value + "\n")


def run(module: AnsibleModule) -> dict[str, object]:
    """Compare and write; return the result of the module."""
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for name, value in module.params["settings"].items():
        setting = to_setting(name, value)
        try:
            found = read(setting)
            if found == setting.value:
                continue
            write(setting, module.check_mode)
        except OSError as error:
            if error.errno not in REFUSALS:
                raise ValueError(f"{name}: the kernel rejects the value {setting.value!r}: {error.strerror}") from error
            skipped[name] = REFUSALS[error.errno]
            continue
        before[name], after[name] = found, setting.value
    if skipped:
        module.warn(explain(skipped))
    return {"changed": bool(after), "skipped_settings": skipped, "diff": {"before": before, "after": after}}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={"settings": {"type": "dict", "required": True}}, supports_check_mode=True)
    try:
        module.exit_json(**run(module))
    except ValueError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
