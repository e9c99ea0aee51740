# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
"""Action plugin preflight: judges the whole inventory on the controller, and fails once with everything it found."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping

from ansible import template
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight import judge, variables
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import (
    Collection,
    Host,
    Inventory,
    Probe,
    Problem,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.tls.authority import digests
from ansible_collections.holdfast.persistence.plugins.plugin_utils import templates

ROLES = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "roles")

_DEFAULT_PROBE = "__preflight_probe"


class ActionModule(ActionBase):
    """Runs on the controller alone: it needs no connection and changes nothing."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Judge the inventory. Returns problems, advice and accepted problems; failed if there are problems."""
        result = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(
            argument_spec={
                "skip_rules": {"type": "list", "elements": "str", "default": []},
                "extra_groups": {"type": "list", "elements": "str", "default": []},
                "extra_variables": {"type": "list", "elements": "str", "default": []},
                "free_mib": {"type": "int", "default": 2048},
                "details": {"type": "bool", "default": True},
                "probe": {"type": "str", "default": _DEFAULT_PROBE},
            }
        )
        try:
            templates.require_types(self._templar)
        except Refusal as error:
            raise AnsibleActionFail(f"No host was changed. {error}.") from None
        inventory = read_inventory(self._loader, task_vars, RoleFiles(self._loader), arguments)
        verdict = judge.judge(inventory, arguments["skip_rules"], not_probed(inventory, task_vars))
        result.update(changed=False, msg=_message(inventory, verdict))
        if arguments["details"]:
            result.update(
                problems=[problem.as_dict() for problem in verdict.problems],
                advice=[problem.as_dict() for problem in verdict.warnings],
                accepted=[problem.as_dict() for problem in verdict.accepted],
            )
        if verdict.warnings:
            result["warnings"] = [judge.sentence(problem) for problem in verdict.warnings]
        if verdict.problems:
            result["failed"] = True
        return result


def read_inventory(loader, task_vars, roles, arguments):
    """Read everything that rules need.

    Parameters: loader, a DataLoader; task_vars, of which groups and hostvars count; roles, a RoleFiles;
    arguments, of the action.
    """
    # A standalone server that adopt.yml takes over is nobody's host yet.
    strangers = set(task_vars["groups"].get("standalone", ()))
    groups = {
        group: tuple(name for name in names if name not in strangers)
        for group, names in task_vars["groups"].items()
        if group != "standalone"
    }
    return Inventory(
        hosts=tuple(
            _read_host(name, groups, task_vars["hostvars"], roles, loader=loader, probe_name=arguments["probe"])
            for name in groups.get("all", ())
        ),
        groups=groups,
        collection=roles.collection,
        extra_groups=frozenset(arguments["extra_groups"]),
        extra_variables=frozenset(arguments["extra_variables"]),
        free_mib=arguments["free_mib"],
    )


def _read_host(name, groups, hostvars, roles, *, loader, probe_name):
    """Read one host: the variables that rules need and those of ours that the operator set."""
    raw = hostvars.raw_get(name)
    seen = raw.get(probe_name)
    seen = seen if isinstance(seen, Mapping) and "os" in seen else None
    scope = {
        **roles.defaults,
        **raw,
        **roles.fixed,
        "hostvars": hostvars,
        # Nothing is made while the inventory is judged, above all no secret.
        "ansible_check_mode": True,
        "ansible_facts": {**_facts(seen), **raw.get("ansible_facts", {})},
    }
    templar = template.Templar(loader=loader, variables=scope)
    given = frozenset(key for key in raw if isinstance(key, str))
    values, failed = {}, {}
    for variable in sorted((judge.NEEDED & scope.keys()) | (given & roles.collection.options.keys())):
        try:
            values[variable] = _plain(templar.template(scope[variable]))
        except (AnsibleError, TypeError, ValueError) as error:
            # A default may need what only the installation finds out; the operator's own values must be sound now.
            if variable in given:
                failed[variable] = _first_line(error)
    folder = values.get("tls_folder") or ""
    return Host(
        name=name,
        groups=frozenset(group for group, names in groups.items() if name in names),
        variables=values,
        given=given,
        failed=failed,
        probe=Probe.from_result(seen) if seen else None,
        authorities=read_authorities(os.path.join(folder, "ca.crt")) if folder else frozenset(),
        secrets=read_names(values.get("cluster_secrets_dir") or ""),
    )


def read_authorities(path):
    """Return the digests of the certificates in a file, none where there is no file."""
    try:
        with open(path, encoding="utf-8") as stream:
            return frozenset(digests(stream.read()))
    except FileNotFoundError:
        return frozenset()


def read_names(folder):
    """Return the names of the files in a folder, none where there is no folder."""
    if not folder or not os.path.isdir(folder):
        return frozenset()
    return frozenset(entry.name for entry in os.scandir(folder) if entry.is_file())


class RoleFiles:
    """The roles of this collection as they are on disk: specifications, defaults and own variables."""

    def __init__(self, loader):
        self._loader = loader
        specs, self.defaults, self.fixed = {}, {}, {}
        for role in sorted(os.listdir(ROLES)):
            content = self._load(role, "meta/argument_specs.yml")
            if content:
                specs[role] = content["argument_specs"]
            self.defaults.update(self._load(role, "defaults/main.yml", "defaults/main/*.yml"))
            self.fixed.update(self._load(role, "vars/main.yml", "vars/main/*.yml"))
        self.collection = Collection(
            platforms=_plain(self.fixed.get("cluster_platforms", {})),
            ports=self._ports(),
            timings=_plain(self.fixed.get("cluster_timings", {})),
            options=variables.merge_specs(specs),
            roles=frozenset(specs),
            fixed=frozenset(self.fixed),
        )

    def _ports(self):
        """Return every port by its name as it is where the operator set none."""
        variable = "cluster_port_"
        chosen = {
            name.removeprefix(variable): port for name, port in self.defaults.items() if name.startswith(variable)
        }
        return {**_plain(self.fixed.get("cluster_ports", {})), **chosen}

    def _load(self, role, *patterns):
        """Return the merged content of a role's files."""
        merged = {}
        for pattern in patterns:
            for path in sorted(glob.glob(os.path.join(ROLES, role, pattern))):
                content = self._loader.load_from_file(path, cache="all") or {}
                if not isinstance(content, Mapping):
                    raise AnsibleActionFail(f"preflight: {path} is not a mapping")
                merged.update(_trusted(content))
        return merged


def _trusted(value):
    """Let strings of the collection's own files be templates."""
    if isinstance(value, Mapping):
        return {key: _trusted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_trusted(inner) for inner in value]
    return templates.trust(value) if isinstance(value, str) else value


def _plain(value):
    """Return plain dictionaries and lists in place of the templating engine's containers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


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


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def not_probed(inventory, task_vars):
    """Yield a problem for every host of the play that could not be looked at."""
    playing = set(task_vars.get("ansible_play_hosts_all", []))
    for host in inventory.stack:
        if host.probe is None and host.name in playing:
            yield Problem(
                rule="host_unreachable",
                hosts=(host.name,),
                subject="",
                found="a host that could not be looked at",
                allowed="hosts that Ansible reaches, with Python and root's rights",
                remedy="see the error of the task before; correct ansible_host, the key or become",
            )


def _message(inventory, verdict):
    """Return the text that an operator reads."""
    accepted = f" {len(verdict.accepted)} accepted by preflight_skip_rules." if verdict.accepted else ""
    if not verdict.problems:
        hosts = f"{len(inventory.stack)} host{'' if len(inventory.stack) == 1 else 's'}"
        return f"No problems found on {hosts}.{accepted}"
    count = len(verdict.problems)
    head = f"{count} problem{'' if count == 1 else 's'} found; no host was changed.{accepted}"
    return f"{head}\n{judge.render(verdict.problems)}"
