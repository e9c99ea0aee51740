# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Action that issues certificates on the controller and places them on the host."""

from __future__ import annotations

import datetime
import os

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusals
from ansible_collections.holdfast.persistence.plugins.modules.tls_files import ARGUMENTS
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.certificates import IMPORT_ERROR, Wish
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.store import (
    Outcome,
    Store,
    Terms,
    foreign,
)


def to_wish(organization: str, element: dict) -> Wish:
    """Return the wish of one element of the option certificates."""
    return Wish(organization, element["common_name"], tuple(element["names"]), tuple(element["usages"]))


def collect(params: dict, check_mode: bool, now: datetime.datetime, new_authority: bool = False) -> Outcome:
    """Return the host's certificates, issued where needed.

    Parameters: new_authority, whether one may be made where the folder has none.
    Raises Refusals and OSError.
    """
    organization = params["organization"]
    wishes = {element["service"]: to_wish(organization, element) for element in params["certificates"]}
    if params["provider"] == "own":
        return foreign(params["folder"], params["host"], wishes, now)
    if not check_mode and not new_authority and not os.path.exists(os.path.join(params["folder"], "ca.crt")):
        raise Refusals(
            [
                f"{os.path.join(params['folder'], 'ca.crt')} is missing, and only site.yml makes an authority, after a look at the "
                "hosts: bring the folder from the controller that has it; for a new cluster run site.yml"
            ]
        )
    terms = Terms(organization, now, params["days"], params["renew_days"], params["ca_days"])
    clients = {name: Wish(organization, name, (), ("client",)) for name in params["clients"]}
    return Store(params["folder"], terms, check_mode).provide(params["host"], wishes, clients)


def to_files(params: dict, outcome: Outcome) -> tuple[list[dict], list[str]]:
    """Return (arguments of the module files, paths whose content only a real run would know)."""
    dest = params["dest"]
    owners = {element["service"]: element["owner"] for element in params["certificates"]}
    files: list[dict] = [{"path": dest, "mode": "0755"}]
    pending = []
    contents = [("ca.crt", outcome.ca, "root", "0644")]
    contents += [(name + ".pem", pem, owners[name], "0600") for name, pem in outcome.pems.items()]
    for name, content, owner, mode in contents:
        path = os.path.join(dest, name)
        if content is None:
            pending.append(path)
        else:
            files.append({"path": path, "content": content, "owner": owner, "mode": mode, "sensitive": mode == "0600"})
    return files, pending


class ActionModule(ActionBase):
    """The action plugin."""

    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        if IMPORT_ERROR is not None:
            raise AnsibleActionFail(
                f"certificates: {IMPORT_ERROR}: install the Python package cryptography, 42 or newer, for ansible-playbook"
            )
        _checked, params = self.validate_argument_spec(ARGUMENTS)
        now = datetime.datetime.now(datetime.UTC)
        try:
            # As secrets are: only in a run in which preflight has looked at the hosts.
            judged = "__preflight_verdict" in (task_vars or {})
            outcome = collect(params, self._task.check_mode, now, judged)
        except Refusals as error:
            # Without its cause, whose text Ansible would append and so tell everything twice.
            raise AnsibleActionFail("certificates: " + "\n".join(error.problems)) from None
        except OSError as error:
            raise AnsibleActionFail(f"certificates: {error}") from None
        files, pending = to_files(params, outcome)
        result = self._execute_module(
            module_name="holdfast.persistence.files", module_args={"files": files}, task_vars=task_vars
        )
        if result.get("failed"):
            return result
        return self._merge(result, outcome, pending)

    @staticmethod
    def _merge(result: dict, outcome: Outcome, pending: list[str]) -> dict:
        lines = [f"# {name} is issued: {reason}\n" for name, reason in outcome.issued.items()]
        result["issued"] = outcome.issued
        result["changed"] = bool(result.get("changed") or outcome.issued)
        result["changed_paths"] = [*result.get("changed_paths", []), *pending]
        if lines:
            result["diff"] = [{"prepared": "".join(lines)}, *result.get("diff", [])]
        return result
