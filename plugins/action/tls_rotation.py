# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Action that takes a step of a rotation of certificates in their folder on the controller."""

from __future__ import annotations

import datetime

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal, Refusals
from ansible_collections.holdfast.persistence.plugins.modules.tls_rotation import ARGUMENTS
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.certificates import (
    IMPORT_ERROR,
)
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.rotation import Rotation


class ActionModule(ActionBase):
    """The action plugin."""

    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        if IMPORT_ERROR is not None:
            raise AnsibleActionFail(
                f"certificates: {IMPORT_ERROR}: install the Python package cryptography, 42 or newer, for ansible-playbook"
            )
        _checked, params = self.validate_argument_spec(ARGUMENTS)
        now = datetime.datetime.now(datetime.UTC)
        rotation = Rotation(params["folder"], params["organization"], now, params["ca_days"], self._task.check_mode)
        try:
            taken = rotation.prove(params["step"]) if params["proven"] else rotation.take(params["step"])
        except Refusals as error:
            raise AnsibleActionFail("certificates: " + "\n".join(error.problems)) from None
        except (Refusal, OSError) as error:
            raise AnsibleActionFail(f"certificates: {error}") from None
        return {**result, "changed": bool(taken.texts), "steps": list(taken.texts), "step": taken.state.step}
