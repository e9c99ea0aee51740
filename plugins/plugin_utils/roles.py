# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The roles of this collection as the controller reads them, and what their variables are on a host before any role runs there."""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Mapping

from ansible import template
from ansible.errors import AnsibleError
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight import variables
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import Collection
from ansible_collections.holdfast.persistence.plugins.plugin_utils import templates

ROLES = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "roles")


class RoleFiles:
    """The roles of this collection as they are on disk: specifications, defaults and own variables."""

    def __init__(self, loader):
        self._loader = loader
        self.defaults, self.fixed = {}, {}
        for role in self._names():
            self.defaults.update(self._load(role, "defaults/main.yml", "defaults/main/*.yml"))
            self.fixed.update(self._load(role, "vars/main.yml", "vars/main/*.yml"))

    @functools.cached_property
    def collection(self):
        """What rules look at. The specifications are read when somebody asks: an evaluation of variables needs none."""
        specs = {}
        for role in self._names():
            content = self._load(role, "meta/argument_specs.yml")
            if content:
                specs[role] = content["argument_specs"]
        return Collection(
            platforms=templates.plain(self.fixed.get("cluster_platforms", {})),
            ports=self._ports(),
            timings=templates.plain(self.fixed.get("cluster_timings", {})),
            options=variables.merge_specs(specs),
            roles=frozenset(specs),
            fixed=frozenset(self.fixed),
        )

    @staticmethod
    def _names():
        return sorted(os.listdir(ROLES))

    def _ports(self):
        """Return every port by its name as it is where the operator set none."""
        variable = "cluster_port_"
        chosen = {
            name.removeprefix(variable): port for name, port in self.defaults.items() if name.startswith(variable)
        }
        return {**templates.plain(self.fixed.get("cluster_ports", {})), **chosen}

    def _load(self, role, *patterns):
        """Return the merged content of a role's files. Raises AnsibleError where one is no mapping."""
        merged = {}
        for pattern in patterns:
            for path in sorted(glob.glob(os.path.join(ROLES, role, pattern))):
                content = self._loader.load_from_file(path, cache="all") or {}
                if not isinstance(content, Mapping):
                    raise AnsibleError(f"{path} is not a mapping")
                merged.update(_trusted(content))
        return merged


class HostScope:
    """What templates see on a host: the roles' defaults, the operator's variables, the roles' own, and what was seen there."""

    def __init__(self, loader, hostvars, name, roles, probe):
        """Parameters: hostvars of all hosts; name of the host; roles, a RoleFiles; probe, the variable with host_probe's result."""
        self.given = hostvars.raw_get(name)
        seen = self.given.get(probe)
        self.seen = seen if isinstance(seen, Mapping) and "os" in seen else None
        self.scope = {
            **roles.defaults,
            **self.given,
            **roles.fixed,
            "hostvars": hostvars,
            # Nothing is made while the inventory is judged, above all no secret.
            "ansible_check_mode": True,
            # What was seen in this run counts more than a fact cache.
            "ansible_facts": {**self.given.get("ansible_facts", {}), **_facts(self.seen)},
        }
        self._templar = template.Templar(loader=loader, variables=self.scope)

    def value(self, variable):
        """Return what a variable is there, as plain data. Raises AnsibleError, TypeError or ValueError where it can't be evaluated."""
        return templates.plain(self._templar.template(self.scope[variable]))


def _trusted(value):
    """Let strings of the collection's own files be templates."""
    if isinstance(value, Mapping):
        return {key: _trusted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_trusted(inner) for inner in value]
    return templates.trust(value) if isinstance(value, str) else value


def _facts(seen):
    """Facts that role defaults use, as far as the probe knows them."""
    if seen is None:
        return {}
    return {
        "distribution_release": seen["os"]["codename"],
        "memtotal_mb": seen["memory_total_mib"],
        "processor_vcpus": seen["cpus"],
        "processor_nproc": seen["cpus"],
        "architecture": seen["architecture"],
        "python_version": seen["python"],
    }
