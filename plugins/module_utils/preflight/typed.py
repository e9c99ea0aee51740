# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Whether a variable of a role has the type that the role's specification declares. No I/O.

ansible-core's validate_argument_spec accepts text for a number or a truth value, and hands the role the text unchanged
(plugins/action/validate_argument_spec.py, 2.18 to 2.21): "false" is then true in a template. Templates keep the types of what
they compute from 2.19 on, before that with jinja2_native (plugin_utils/templates.py refuses an engine without).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "list": (list, tuple),
    "dict": (Mapping,),
}
_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "list": "a list", "dict": "a mapping"}
# The preflight is an action with a specification of its own, which casts.
_CAST = "preflight_"
_REMEDIES = {
    "int": "in a template end with | int",
    "float": "in a template end with | float",
    "bool": "in an INI inventory write True or False, in a template end with | bool",
}


@dataclass(frozen=True)
class Fault:
    """A value, or a part of one (place, such as `patroni_users[0].superuser`), that has another type than declared."""

    place: str
    found: str
    allowed: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place} is {self.found}: allowed is {self.allowed}; {self.remedy}"


def faults(name: str, value: Any, option: Mapping[str, Any], *, secret: bool = False) -> Iterator[Fault]:
    """Yield what has another type than its option declares; no value is no fault.

    Parameters: name of the variable; value, templates evaluated; option, its argument specification;
    secret, whether the value must not be shown.
    """
    kind = option.get("type", "str")
    if value is None or kind not in _TYPES or name.startswith(_CAST):
        return
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
        yield _fault(name, value, kind, secret or bool(option.get("no_log")))
        return
    for place, inner, inner_option in _parts(name, value, option):
        yield from faults(place, inner, inner_option, secret=secret)


def _parts(name: str, value: Any, option: Mapping[str, Any]) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    known = option.get("options") or {}
    if isinstance(value, Mapping):
        yield from ((f"{name}.{key}", inner, known[key]) for key, inner in value.items() if key in known)
    elif isinstance(value, (list, tuple)):
        inner_option = {"type": option.get("elements", "raw"), "options": known}
        yield from ((f"{name}[{index}]", inner, inner_option) for index, inner in enumerate(value))


def _fault(place: str, value: Any, kind: str, secret: bool) -> Fault:
    if secret or not isinstance(value, (str, int, float)):
        found = "of another type"
    else:
        found = f"the text {str(value)!r}" if isinstance(value, str) else repr(value)
    variable = re.split(r"[.[]", place)[0]
    how = f"on the command line write -e '{{\"{variable}\": ...}}', which is JSON"
    more = f"; {_REMEDIES[kind]}" if kind in _REMEDIES else ""
    return Fault(place, found, _WORDS[kind], how + more)
