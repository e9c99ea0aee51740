# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Rules about the variables themselves: names, types, secrets. Argument specifications are the measure. No I/O."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.errors import UnsupportedError
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight import typed
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import Host, Inventory, Problem, rule

SHORTEST_SECRET = 12

# The first guesses of anyone who tries; compared in lower case.
_DEFAULT_SECRETS = frozenset(
    {
        "12345678",
        "123456789012",
        "admin",
        "administrator",
        "changeit",
        "changeme",
        "change_me",
        "default",
        "letmein",
        "master",
        "pass",
        "passw0rd",
        "password",
        "patroni",
        "postgres",
        "postgresql",
        "qwerty",
        "redis",
        "replication",
        "replicator",
        "root",
        "secret",
        "test",
        "valkey",
    }
)

_SECRET_NAME = re.compile(r"(^|_)(password|passphrase|secret|token)$")

# What the validator of argument specifications understands; the rest of a role's specification is for readers.
_VALIDATOR_KEYS = (
    "type",
    "elements",
    "choices",
    "required",
    "mutually_exclusive",
    "required_together",
    "required_one_of",
    "required_if",
    "required_by",
)


def merge_specs(specs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Merge the argument specifications of roles into one mapping of variable to option.

    Parameter: specs, by role name, each the content of `argument_specs` (entry point to specification).
    Where several roles name a variable the first one counts.
    """
    merged: dict[str, dict[str, Any]] = {}
    for entry_points in specs.values():
        for entry_point in entry_points.values():
            for name, option in (entry_point.get("options") or {}).items():
                merged.setdefault(name, option)
    return merged


def nearest(name: str, known: Any, cutoff: float = 0.6) -> str:
    """Return the known name that is most like a name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return close[0] if close else ""


@rule("fixed_variable", "misspelt_variable", "unknown_variable")
def unknown_variables(inventory: Inventory) -> Iterator[Problem]:
    """Refuse variables with a role's prefix that no role knows, and unknown keys inside those that are known."""
    collection = inventory.collection
    prefixes = tuple(f"{role}_" for role in sorted(collection.roles))
    for host in inventory.hosts:
        for name in sorted(host.given - inventory.extra_variables):
            if name in collection.options:
                option = collection.options[name]
                yield from _unknown_keys(host, name, host.value(name), option)
            elif name in collection.fixed:
                yield Problem(
                    rule="fixed_variable",
                    hosts=(host.name,),
                    subject=name,
                    found="a value in the inventory, where it has no effect",
                    allowed="only the collection's own value",
                    remedy="remove the variable",
                )
            elif name.startswith(prefixes) if prefixes else False:
                yield _unknown(host, name, nearest(name, collection.options), "preflight_extra_variables")
            else:
                yield from _misspelt_prefix(host, name, inventory)


def _unknown(host: Host, name: str, meant: str, escape: str = "") -> Problem:
    way_out = f", or list it in {escape} if it is yours" if escape else ""
    return Problem(
        rule="unknown_variable",
        hosts=(host.name,),
        subject=name,
        found="a name that no role knows",
        allowed=f"names in the roles' argument specifications{f'; the nearest is {meant}' if meant else ''}",
        remedy=(f"rename it to {meant}" if meant else "remove it") + way_out,
    )


def _misspelt_prefix(host: Host, name: str, inventory: Inventory) -> Iterator[Problem]:
    """Warn of a name that is a letter or two away from one of ours, the prefix included."""
    if "_" not in name or name.startswith(("ansible_", "_")):
        return
    meant = nearest(name, inventory.collection.options, cutoff=0.9)
    if meant:
        yield Problem(
            rule="misspelt_variable",
            hosts=(host.name,),
            subject=name,
            found=f"a name almost like {meant}",
            allowed="names that can't be mistaken",
            remedy=f"rename it to {meant}, or list it in preflight_extra_variables if it is yours",
            warning=True,
        )


def _unknown_keys(host: Host, path: str, value: Any, option: Mapping[str, Any]) -> Iterator[Problem]:
    known = option.get("options")
    if not known:
        return
    for place, item in _items(path, value):
        for key, inner in item.items():
            if key in known:
                yield from _unknown_keys(host, f"{place}.{key}", inner, known[key])
            else:
                yield _unknown(host, f"{place}.{key}", nearest(str(key), known))


def _items(path: str, value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (path, mapping) for a mapping or for each mapping of a list."""
    if isinstance(value, Mapping):
        yield path, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, Mapping):
                yield f"{path}[{index}]", item


@rule("bad_value")
def bad_values(inventory: Inventory) -> Iterator[Problem]:
    """Refuse values that the roles' argument specifications would refuse later, when hosts have changed already."""
    for host in inventory.hosts:
        for name in sorted(host.given & inventory.collection.options.keys() & host.variables.keys()):
            option = inventory.collection.options[name]
            wrong = wrong_places(name, host.value(name), option)
            for place, found, allowed in wrong:
                yield Problem(
                    rule="bad_value",
                    hosts=(host.name,),
                    subject=place,
                    found=found,
                    allowed=allowed,
                    remedy=f"correct {name}",
                )
            if not wrong:
                yield from _of_another_type(host, name, option)


def _of_another_type(host: Host, name: str, option: Mapping[str, Any]) -> Iterator[Problem]:
    """Refuse text that a specification takes for a number or a truth value: a role gets the text."""
    for fault in typed.faults(name, host.value(name), option, secret=holds_secrets(option)):
        yield Problem(
            rule="bad_value",
            hosts=(host.name,),
            subject=fault.place,
            found=fault.found,
            allowed=fault.allowed,
            remedy=fault.remedy,
        )


def wrong_places(name: str, value: Any, option: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (place, found, allowed) for what an argument specification refuses in a value.

    A variable that may hold secrets shows no value, whichever key that stands under: people put passwords in the wrong place, too.
    Parameters: name, of the variable; value, as the inventory has it; option, its specification.
    """
    errors = spec_errors(name, value, option)
    if not errors:
        return []
    if not holds_secrets(option):
        return [(name, message, _allowed(option)) for message in errors]
    known = option.get("options") or {}
    places = [
        (f"{place}.{key}", known[key])
        for place, item in _items(name, value)
        for key, inner in item.items()
        if key in known and spec_errors(str(key), inner, known[key])
    ]
    # Names of what is missing are no secret.
    missing = [message for message in errors if message.startswith("missing required arguments")]
    return [
        *((place, "a value that is not shown beside secrets", _allowed(inner)) for place, inner in places),
        *((name, message, _allowed(option)) for message in missing),
    ] or [(name, "a secret of the wrong type", _allowed(option))]


def spec_errors(name: str, value: Any, option: Mapping[str, Any]) -> list[str]:
    """Return what the argument specification of one variable finds wrong with a value, unknown keys apart."""
    result = ArgumentSpecValidator({name: _for_validator(option)}).validate({name: value})
    return [error.msg for error in result.errors if not isinstance(error, UnsupportedError)]


def _for_validator(option: Mapping[str, Any]) -> dict[str, Any]:
    reduced = {key: option[key] for key in _VALIDATOR_KEYS if key in option}
    if option.get("options"):
        reduced["options"] = {key: _for_validator(inner) for key, inner in option["options"].items()}
        for inner_name, inner in option["options"].items():
            if "default" in inner:
                reduced["options"][inner_name].pop("required", None)
    return reduced


def _allowed(option: Mapping[str, Any]) -> str:
    kind = option.get("type", "str")
    text = f"{kind} of {option['elements']}" if "elements" in option else kind
    return f"{text}, one of {', '.join(map(str, option['choices']))}" if option.get("choices") else text


def holds_secrets(option: Mapping[str, Any]) -> bool:
    """Return whether a value of a variable may have a secret in it, at any depth."""
    inner = option.get("options") or {}
    return bool(option.get("no_log")) or any(_SECRET_NAME.search(key) or holds_secrets(inner[key]) for key in inner)


def _is_secret(name: str, option: Mapping[str, Any]) -> bool:
    return bool(option.get("no_log") or _SECRET_NAME.search(name))


@rule("weak_secret")
def secrets(inventory: Inventory) -> Iterator[Problem]:
    """Refuse secrets that are empty, guessable or short. A value never appears in what is said about it."""
    for host in inventory.stack:
        for name in sorted(host.given & inventory.collection.options.keys() & host.variables.keys()):
            option = inventory.collection.options[name]
            for path, value, names, may_be_empty in _secret_values(name, host.value(name), option, (name,)):
                fault = secret_fault(value, [*names, str(host.value("cluster_name", ""))], may_be_empty)
                if fault:
                    yield Problem(
                        rule="weak_secret",
                        hosts=(host.name,),
                        subject=path,
                        found=fault,
                        allowed=f"{SHORTEST_SECRET} characters or more that nobody can guess",
                        remedy="leave it out where the role generates one, or set a long random value (ansible-vault)",
                    )


def _secret_values(
    path: str, value: Any, option: Mapping[str, Any], names: tuple[str, ...]
) -> Iterator[tuple[str, Any, tuple[str, ...], bool]]:
    """Yield (path, secret, names that it must not equal, whether it may be empty) for each secret inside a value."""
    own = path.rsplit(".", 1)[-1]
    if isinstance(value, (Mapping, list)):
        known = option.get("options") or {}
        for place, item in _items(path, value):
            around = tuple(str(item[key]) for key in ("name", "user", "username") if item.get(key))
            for key, inner in item.items():
                yield from _secret_values(f"{place}.{key}", inner, known.get(key, {}), (*names, *around))
    elif _is_secret(own, option):
        yield path, value, names, option.get("default", None) == "" and not value


def secret_fault(value: Any, names: list[str], may_be_empty: bool = False) -> str:
    """Say what is wrong with a secret without showing it; an empty string means nothing is.

    Parameters: value; names, of users and variables, that must not be the secret; may_be_empty, true if the
    specification's own default is empty.
    """
    text = "" if value is None else str(value).strip()
    lowered = text.lower()
    if not text:
        return "" if may_be_empty else "an empty secret"
    stem = re.sub(r"[\d!@#$._-]+$", "", lowered)
    if lowered in _DEFAULT_SECRETS or stem in _DEFAULT_SECRETS:
        return "a well-known default"
    if lowered in {name.lower() for name in names if name}:
        return "the name of the user, the cluster or the variable"
    if len(text) < SHORTEST_SECRET:
        return f"a secret of {len(text)} characters"
    if len(set(text)) < 4:
        return "a secret of hardly any different characters"
    return ""


@rule("template_error")
def failed_variables(inventory: Inventory) -> Iterator[Problem]:
    """Refuse variables that can't be evaluated."""
    for host in inventory.hosts:
        for name, reason in sorted(host.failed.items()):
            yield Problem(
                rule="template_error",
                hosts=(host.name,),
                subject=name,
                found=reason,
                allowed="a value, or a template that can be evaluated",
                remedy=f"correct {name} where the inventory sets it",
            )
