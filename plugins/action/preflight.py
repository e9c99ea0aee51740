# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Action plugin preflight: judges the whole inventory on the controller, and fails once with everything it found."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.holdfast.persistence.plugins.module_utils.apt.availability import Unavailable
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight import judge
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import (
    Host,
    Inventory,
    Probe,
    Problem,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.tls.authority import digests
from ansible_collections.holdfast.persistence.plugins.plugin_utils import templates
from ansible_collections.holdfast.persistence.plugins.plugin_utils.roles import HostScope, RoleFiles

_DEFAULT_PROBE = "__preflight_probe"
_DEFAULT_PACKAGES = "__preflight_packages"


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
                "leaving_host": {"type": "str", "default": ""},
                "leaving_groups": {"type": "list", "elements": "str", "default": []},
                "packages": {"type": "str", "default": _DEFAULT_PACKAGES},
            },
            required_together=[("leaving_host", "leaving_groups")],
        )
        try:
            templates.require_types(self._templar)
        except Refusal as error:
            raise AnsibleActionFail(f"No host was changed. {error}.") from None
        inventory = read_inventory(self._loader, task_vars, RoleFiles(self._loader), arguments)
        leaving, tiers = arguments["leaving_host"], arguments["leaving_groups"]
        if leaving:
            verdict = judge.judge_left(inventory, leaving, tiers, arguments["skip_rules"])
            message = _message_left(leaving, tiers, verdict)
        else:
            verdict = judge.judge(inventory, arguments["skip_rules"], not_probed(inventory, task_vars))
            message = _message(inventory, verdict)
        result.update(changed=False, msg=message)
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
            _read_host(name, groups, task_vars["hostvars"], roles, loader=loader, arguments=arguments)
            for name in groups.get("all", ())
        ),
        groups=groups,
        collection=roles.collection,
        extra_groups=frozenset(arguments["extra_groups"]),
        extra_variables=frozenset(arguments["extra_variables"]),
        free_mib=arguments["free_mib"],
    )


def _read_host(name, groups, hostvars, roles, *, loader, arguments):
    """Read one host: the variables that rules need and those of ours that the operator set."""
    scope = HostScope(loader, hostvars, name, roles, arguments["probe"])
    given = frozenset(key for key in scope.given if isinstance(key, str))
    values, failed = {}, {}
    for variable in sorted((judge.NEEDED & scope.scope.keys()) | (given & roles.collection.options.keys())):
        try:
            values[variable] = scope.value(variable)
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
        probe=Probe.from_result(scope.seen) if scope.seen else None,
        authorities=read_authorities(os.path.join(folder, "ca.crt")) if folder else frozenset(),
        secrets=read_names(values.get("cluster_secrets_dir") or ""),
        unavailable=_unavailable(scope.given.get(arguments["packages"])),
    )


def _unavailable(result):
    """Return what the host's apt can't install, out of the result of package_probe."""
    found = result.get("unavailable", ()) if isinstance(result, Mapping) else ()
    return tuple(Unavailable(str(item["package"]), str(item["reason"])) for item in found)


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
                found="a host that the preflight could not look at",
                allowed="hosts that Ansible reaches, with Python and root's rights",
                remedy="read the error of the task before; correct ansible_host, the key or become",
            )


def _message_left(leaving, tiers, verdict):
    """Return the text about the inventory that a host leaves."""
    place = f"{leaving} in {', '.join(tiers)}"
    if not verdict.problems:
        return f"Without {place} the inventory is as sound as it was."
    rules = ", ".join(f'"{problem.rule}"' for problem in verdict.problems)
    return (
        f"Nothing was changed. Without {place} site.yml would refuse the inventory:\n{judge.render(verdict.problems)}\n"
        "Mend that first (change the inventory and run site.yml). Where a further step mends it, run this playbook again with"
        f""" -e '{{"preflight_skip_rules": [{rules}]}}'; site.yml runs again once the inventory is sound."""
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
