# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Values of a playbook's options in the types that its specification declares. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from yaml import YAMLError, safe_load

# What the validator of argument specifications understands; the rest of a specification is for readers.
_VALIDATOR_KEYS = ("type", "elements", "choices", "required")
Option = Mapping[str, Any]


def cast(name: str, value: Any, option: Option) -> Any:
    """Return a value in the type of its option.

    Parameters: name and specification (option) of the variable; value, as `--extra-vars`, an inventory or a survey gives it:
    text of the form `key=value` stands for a number, a truth value, words between commas, or YAML in brackets.
    Raises Refusal, which names the option, what was found and what is allowed.
    """
    result = ArgumentSpecValidator({name: _for_validator(option)}).validate({name: _out_of_text(value, option)})
    if result.error_messages:
        raise Refusal(f"{name} is {value!r}: allowed is {allowed(option)}")
    return result.validated_parameters[name]


def _out_of_text(value: Any, option: Option) -> Any:
    """Return what a list or mapping in brackets says; everything else as it is."""
    if option["type"] not in {"list", "dict"} or not isinstance(value, str) or not value.strip().startswith(("[", "{")):
        return value
    try:
        return safe_load(value)
    except YAMLError:
        return value


def _for_validator(option: Option) -> dict[str, Any]:
    reduced = {key: option[key] for key in _VALIDATOR_KEYS if key in option}
    if "options" in option:
        reduced["options"] = {name: _for_validator(inner) for name, inner in option["options"].items()}
    return reduced


def allowed(option: Option) -> str:
    """Say which values an option takes."""
    kind = {"int": "a whole number", "bool": "true or false", "str": "text", "dict": "a mapping", "list": "a list"}
    inner = ", ".join(option.get("options", ()))
    text = kind[option["type"]]
    if "elements" in option:
        text += {"str": " of names", "dict": " of mappings"}[option["elements"]]
    if inner:
        text += f" with {inner}"
    if "choices" in option:
        choices = ", ".join(choice or "nothing" for choice in option["choices"])
        text += f", of {choices}" if "elements" in option else f", one of {choices}"
    return text


def one(name: str, by_host: Mapping[str, Any]) -> Any:
    """Return the one value that the hosts of a run have for an option.

    Raises Refusal where hosts differ: a run has one value.
    """
    found: list[tuple[str, Any]] = []
    for host, value in by_host.items():
        if all(value != other for _host, other in found):
            found.append((host, value))
    if len(found) > 1:
        told = ", ".join(f"{value!r} on {host}" for host, value in found)
        raise Refusal(f"{name} is {told}: allowed is one value for all hosts")
    return found[0][1]
