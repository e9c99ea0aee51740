# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Action plugin contract: refuses variables that a playbook does not know, and gives the others their types."""

from __future__ import annotations

import os
from pathlib import Path

from ansible import context
from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible.utils.vars import load_extra_vars
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight import typed, variables
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.plugin_utils import templates
from ansible_collections.holdfast.persistence.plugins.plugin_utils.contract import model, names, usage, values

DISPLAY = Display()
COLLECTION = Path(os.path.realpath(__file__)).parents[2]
NAMESPACE = "holdfast.persistence."


class ActionModule(ActionBase):
    """Runs on the controller alone: it needs no connection and changes nothing."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Return `options`: every option of the playbook and of those that it runs, with its value in its type."""
        result = super().run(tmp, task_vars)
        _checked, arguments = self.validate_argument_spec({"playbook": {"type": "str", "required": True}})
        try:
            templates.require_types(self._templar)
        except Refusal as error:
            return {**result, "failed": True, "msg": f"Nothing was changed. {error}."}
        playbook = arguments["playbook"]
        contracts = self._contracts()
        roles = self._roles()
        options = model.whole(playbook, contracts)
        given = load_extra_vars(self._loader)
        # Each look at a host's variables puts all of them together anew, so once is enough.
        hosts = {host: task_vars["hostvars"][host] for host in task_vars["groups"]["all"]}
        mine = {name for own in by_host("preflight_extra_variables", hosts).values() for name in own or ()}
        ran = called(contracts, context.CLIARGS.get("args") or ())
        tags = [*(context.CLIARGS.get("tags") or ()), *(context.CLIARGS.get("skip_tags") or ())]
        faults = [
            *names.refusals(given, ran, contracts, roles, mine),
            *names.unknown_tags(tags, ran, contracts),
            *names.missing_hosts(contracts[playbook], task_vars["ansible_play_hosts_all"], task_vars["groups"]),
            *names.idle_tags(
                context.CLIARGS.get("tags") or () if ran else (),
                task_vars["ansible_play_hosts_all"],
                task_vars["groups"],
            ),
            *as_text(given, roles),
        ]
        chosen = {}
        for name, option in options.items():
            try:
                chosen[name] = self._chosen(name, option, hosts)
            except Refusal as error:
                faults.append(str(error))
        if boolean(given.get(model.HELP, False)):
            DISPLAY.display(usage.render(contracts[playbook], options))
            return {**result, "failed": True, "msg": "Nothing was done: help=true only prints what is above."}
        if faults:
            return {**result, "failed": True, "msg": f"Nothing was changed. {'; '.join(faults)}."}
        return {**result, "changed": False, "options": {**task_vars.get("__options", {}), **chosen}}

    def _contracts(self):
        files = sorted((COLLECTION / "playbooks/specs").glob("*.yml"))
        return {path.stem: model.read(path.stem, self._loader.load_from_file(str(path), cache="all")) for path in files}

    def _roles(self):
        """Return the options that each role declares, by name."""
        files = sorted((COLLECTION / "roles").glob("*/meta/argument_specs.yml"))
        return {
            path.parts[-3]: {
                name: option
                for entry in self._loader.load_from_file(str(path), cache="all")["argument_specs"].values()
                for name, option in (entry.get("options") or {}).items()
            }
            for path in files
        }

    @staticmethod
    def _chosen(name, option, hosts):
        """Return the value of an option; its default where no host has one."""
        found = by_host(name, hosts)
        value = values.one(name, found) if found else None
        return option.get("default") if value is None else values.cast(name, value, option)


def by_host(name, hosts):
    """Return the values that hosts have for a variable; hosts without it are left out.

    Parameters: name, of the variable; hosts, for each host all its variables.
    Raises Refusal where a template can't be evaluated.
    """
    found = {}
    for host, own in hosts.items():
        if name in own:
            try:
                found[host] = templates.plain(own[name])
            except AnsibleError as error:
                raise Refusal(f"{name} on {host} can't be evaluated: {error}") from error
    return found


def as_text(given, roles):
    """Yield a sentence for each variable of a role that `--extra-vars` gives in another type than the role declares.

    Templates are left to the preflight, which knows what they are made of.
    """
    for declared in roles.values():
        for name in sorted(set(given) & declared.keys()):
            value = templates.plain(given[name])
            if not (isinstance(value, str) and "{{" in value):
                option = declared[name]
                yield from map(str, typed.faults(name, value, option, secret=variables.holds_secrets(option)))


def called(contracts, arguments):
    """Return which playbooks the command line names; none where a playbook of somebody else runs ours."""
    found = []
    for argument in arguments:
        path = Path(argument)
        ours = path.suffix in {".yml", ".yaml"} and path.resolve().parent == COLLECTION / "playbooks"
        name = path.stem if ours else argument.removeprefix(NAMESPACE)
        if name not in contracts or not (ours or argument.startswith(NAMESPACE)):
            return []
        found.append(name)
    return found
