# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What the releases of ansible-core that are supported do differently with templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible import template
from ansible.release import __version__
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

_PROBE, _ANSWER = "{{ 1 + 1 }}", 2

# ansible-core up to 2.18 trusts every string as a template and has no such function.
trust = getattr(template, "trust_as_template", lambda text: text)


def plain(value: Any) -> Any:
    """Return plain dictionaries, lists and text in place of the templating engine's. No two are the same object: YAML needs no anchors."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, str) else value


def require_types(templar: Any) -> None:
    """Refuse an engine that makes text of numbers: roles and rules reckon with them.

    ansible-core 2.19 and later keep the type of what a template computes. 2.18 does so only by jinja2_native, which is off by default:
    there even `| int` at the end of a template gives text (lib/ansible/template/__init__.py, class Templar).

    Parameters: templar, the engine of the run. Raises Refusal.
    """
    found = templar.template(trust(_PROBE))
    if found != _ANSWER:
        raise Refusal(
            f"ansible-core {__version__} makes {_PROBE} the text {found!r}: allowed is the number {_ANSWER}",
            "Write jinja2_native = true into [defaults] of ansible.cfg, set ANSIBLE_JINJA2_NATIVE=true, or use ansible-core 2.19 or later",
        )
