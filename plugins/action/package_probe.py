# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Action plugin of the module package_probe: finds out which packages the host needs, before any role has run there."""

from __future__ import annotations

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.holdfast.persistence.plugins.plugin_utils.roles import HostScope, RoleFiles

_DEFAULT_PROBE = "__preflight_probe"


class ActionModule(ActionBase):
    """Evaluates the roles' variables as preflight does, then runs the module."""

    def run(self, tmp=None, task_vars=None):
        """Run the module; where the inventory can't be evaluated or the release is unknown, ask nothing: preflight says so."""
        result = super().run(tmp, task_vars)
        options = dict(self._task.args)
        if "packages" not in options:
            scope = HostScope(
                self._loader,
                task_vars["hostvars"],
                task_vars["inventory_hostname"],
                RoleFiles(self._loader),
                _DEFAULT_PROBE,
            )
            wanted = wanted_packages(scope)
            if not wanted:
                return {**result, "changed": False}
            options.update(wanted)
        result.update(
            self._execute_module(
                module_name="holdfast.persistence.package_probe", module_args=options, task_vars=task_vars
            )
        )
        return result


def wanted_packages(scope):
    """Return the module's options for a host, none where nothing can be asked."""
    release = scope.seen["os"]["codename"] if scope.seen else ""
    try:
        if release not in scope.value("cluster_platforms"):
            return {}
        sets = scope.value("cluster_package_sets")
        platform = scope.value("cluster_platform")
        suite, pinned = "", []
        if {"valkey", "backup_valkey"}.intersection(sets):
            suite = scope.value("host_valkey_suite")
            pinned = [name for name in platform["packages"]["valkey"] if suite and name.startswith("valkey-")]
            suite = suite or (f"{release}-backports" if platform["valkey"]["backports"] else "")
        return {
            "packages": scope.value("cluster_packages"),
            "release": release,
            "suite": suite,
            "suite_packages": pinned,
        }
    except (AnsibleError, TypeError, ValueError):
        return {}
