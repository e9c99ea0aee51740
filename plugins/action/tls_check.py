# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Action that gives the module tls_check, during a rotation, the certificates that show what servers trust."""

from __future__ import annotations

import datetime

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal, Refusals
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.certificates import (
    IMPORT_ERROR,
)
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.rotation import strangers


class ActionModule(ActionBase):
    """The action plugin."""

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        folder, organization = arguments.pop("folder", ""), arguments.pop("organization", "")
        if folder:
            if IMPORT_ERROR is not None:
                raise AnsibleActionFail(
                    f"certificates: {IMPORT_ERROR}: install the Python package cryptography, 42 or newer, for ansible-playbook"
                )
            try:
                _state, pems = strangers(folder, organization, datetime.datetime.now(datetime.UTC))
            except Refusals as error:
                raise AnsibleActionFail("certificates: " + "\n".join(error.problems)) from None
            except (Refusal, OSError) as error:
                raise AnsibleActionFail(f"certificates: {error}") from None
            arguments.update(pems)
        return self._execute_module(
            module_name="holdfast.persistence.tls_check", module_args=arguments, task_vars=task_vars
        )
