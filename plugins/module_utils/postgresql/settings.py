# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Whether PostgreSQL would take a setting, by what its own pg_settings says. No I/O.

Sources: src/backend/utils/misc/guc.c (parse_int, parse_real, convert_to_base_unit) and bool.c of PostgreSQL 15 to 18.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

QUERY = "SELECT name, vartype, unit, min_val, max_val, enumvals, context FROM pg_catalog.pg_settings"

KIB = 1024
MEMORY = {"B": 1, "kB": KIB, "MB": KIB**2, "GB": KIB**3, "TB": KIB**4}
# In microseconds.
TIME = {"us": 1, "ms": 1000, "s": 10**6, "min": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6}
NUMBER = re.compile(
    r"\s*(?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?))\s*(?P<unit>[A-Za-z]*)\s*\Z"
)
OCTAL = re.compile(r"[+-]?0[0-7]+\Z")
BOOLEANS = ("true", "false", "yes", "no", "on", "off")
# Patroni sets these itself and drops what it is told.
PATRONIS_OWN = frozenset(("cluster_name", "hot_standby", "listen_addresses", "port"))


@dataclass(frozen=True)
class Setting:
    """A row of pg_settings. unit is empty for none; values are those of an enumeration."""

    name: str
    kind: str
    unit: str = ""
    least: str = ""
    most: str = ""
    values: tuple[str, ...] = ()
    context: str = ""


def from_rows(rows: Iterable[tuple[Any, ...]]) -> dict[str, Setting]:
    """Return settings by name in lower case, from the rows of QUERY."""
    found = (
        Setting(name, kind, unit or "", least or "", most or "", tuple(values or ()), context)
        for name, kind, unit, least, most, values, context in rows
    )
    return {setting.name.lower(): setting for setting in found}


def problems(
    parameters: Mapping[str, Any], settings: Mapping[str, Setting], prefixes: Iterable[str] = ()
) -> Iterator[str]:
    """Yield what the server would refuse, each with what it allows.

    Parameters: parameters, as they would be set, null for none; settings, of the running server; prefixes, of extensions
    whose settings it does not know yet. Those that the parameters load are added.
    """
    known = {*prefixes, *_loaded(parameters)}
    for name, value in parameters.items():
        if value is None:
            continue
        setting = settings.get(str(name).lower())
        if str(name).lower() in PATRONIS_OWN:
            yield f"{name} is Patroni's own, it would drop it; allowed is to leave it out"
        elif setting is None:
            yield from _unknown(str(name), settings, known)
        elif fault := value_fault(setting, value):
            yield f"{name} is {value!r}, {fault}"


def libraries(parameters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (name of the setting, library) for each library that the parameters load, as it is written there."""
    for name in ("shared_preload_libraries", "session_preload_libraries", "local_preload_libraries"):
        for library in str(parameters.get(name) or "").split(","):
            if library.strip():
                yield name, library.strip().strip('"')


def _loaded(parameters: Mapping[str, Any]) -> Iterator[str]:
    for _name, library in libraries(parameters):
        yield library.rpartition("/")[2]


@dataclass(frozen=True)
class Pages:
    """Huge pages of a host: how many its kernel keeps, in use or not, and the size of one in bytes."""

    total: int
    size: int


def parse_pages(text: str) -> Pages:
    """Return the huge pages in /proc/meminfo (man 5 proc_meminfo; Hugepagesize is in kB)."""
    found = dict(re.findall(r"^(HugePages_Total|Hugepagesize):\s+(\d+)", text, re.MULTILINE))
    return Pages(int(found.get("HugePages_Total", 0)), int(found.get("Hugepagesize", 0)) * KIB)


def host_problems(parameters: Mapping[str, Any], there: Callable[[str], bool], pages: Pages) -> Iterator[str]:
    """Yield why PostgreSQL could not start on a host with these parameters, each with what is allowed.

    Parameters: there, tells whether the host has a library, by the name in the setting; pages, the host's huge pages.
    A server that is told to load what is not there, or to take huge pages that are not kept, ends at its next start.
    """
    for name, library in libraries(parameters):
        if not there(library):
            yield (
                f"{name} names {library}, which this host has not; install its package on every PostgreSQL host "
                "(host_packages_extra), or take it out"
            )
    if str(parameters.get("huge_pages", "")).strip().lower() not in ("on", "true", "yes", "1"):
        return
    wanted = buffers_bytes(parameters.get("shared_buffers"))
    if pages.total * pages.size <= wanted:
        yield (
            f"huge_pages is on, and this host keeps {pages.total} huge pages of {pages.size // KIB} kB, which is not more than "
            f"shared_buffers ({wanted // KIB} kB); allowed are huge_pages: try, or vm.nr_hugepages (host_sysctl_extra) large enough"
        )


def buffers_bytes(value: Any) -> int:
    """Return shared_buffers in bytes, 0 where it is not given or cannot be read; without a unit it counts blocks of 8 kB."""
    match = NUMBER.match(str(value if value is not None else ""))
    factor = MEMORY.get(match["unit"] or "8kB", 8 * KIB) if match else 0
    return int(_number(match["number"], "integer") * factor) if match else 0


def _unknown(name: str, settings: Mapping[str, Setting], prefixes: Iterable[str]) -> Iterator[str]:
    prefix, dot, _rest = name.partition(".")
    if dot and prefix in prefixes:
        return
    if dot and not any(known.startswith(prefix.lower() + ".") for known in settings):
        yield (
            f"{name} is of an extension that is not loaded; allowed where shared_preload_libraries has {prefix}, "
            "or patroni_extension_prefixes names it"
        )
        return
    close = difflib.get_close_matches(name.lower(), settings, n=1, cutoff=0.6)
    hint = f"did you mean {settings[close[0]].name}?" if close else "see pg_settings for what there is"
    yield f"{name} is not a setting of this PostgreSQL; {hint}"


def value_fault(setting: Setting, value: Any) -> str:
    """Return why the server would refuse the value, with what is allowed, or nothing."""
    if isinstance(value, (Mapping, list, tuple)):
        return "allowed is a single value"
    if setting.context == "internal":
        return "which is fixed when the server is built or its data made"
    text = ("on" if value else "off") if isinstance(value, bool) else str(value)
    if setting.kind == "bool":
        return "" if _is_bool(text) else "allowed are on and off"
    if setting.kind == "enum":
        return _enum_fault(setting, text)
    if setting.kind in ("integer", "real"):
        return _number_fault(setting, text)
    return ""


def _is_bool(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in {"0", "1"}:
        return True
    # Beginnings count, "o" alone does not tell on from off.
    return bool(lowered) and lowered != "o" and any(word.startswith(lowered) for word in BOOLEANS)


def _enum_fault(setting: Setting, text: str) -> str:
    lowered = text.strip().lower()
    if lowered in {value.lower() for value in setting.values}:
        return ""
    # Old spellings that the server takes and does not list.
    if lowered in {"true", "false", "yes", "no", "1", "0"} and {"on", "off"} <= set(setting.values):
        return ""
    return f"allowed are {', '.join(setting.values)}"


def _number_fault(setting: Setting, text: str) -> str:
    match = NUMBER.match(text)
    if match is None:
        return f"allowed is a number{_unit_hint(setting)}{_range_hint(setting)}"
    number = _number(match["number"], setting.kind)
    if match["unit"]:
        factor = _factor(match["unit"], setting.unit)
        if factor is None:
            return f"of which the unit {match['unit']!r} is not known here; allowed is a number{_unit_hint(setting)}{_range_hint(setting)}"
        number *= factor
    if setting.kind == "integer":
        number = float(round(number))
    if math.isnan(number) or not float(setting.least) <= number <= float(setting.most):
        return f"allowed is{_range_hint(setting).removeprefix(',')}"
    return ""


def _number(text: str, kind: str) -> float:
    """Read a number as C does: hexadecimal after 0x, and octal after 0 where it is an integer."""
    if "x" in text.lower():
        return float(int(text, 16))
    if kind == "integer" and OCTAL.match(text):
        return float(int(text, 8))
    return float(text)


def _base(unit: str) -> tuple[Mapping[str, int], float] | None:
    """Return (units of the same kind, size of this one), such as of 8kB; None for a setting without unit."""
    match = re.fullmatch(r"(\d*)([A-Za-z]+)", unit)
    if match is None:
        return None
    for units in (MEMORY, TIME):
        if match[2] in units:
            return units, float(match[1] or 1) * units[match[2]]
    return None


def _factor(unit: str, base: str) -> float | None:
    found = _base(base)
    if found is None or unit not in found[0]:
        return None
    return found[0][unit] / found[1]


def _unit_hint(setting: Setting) -> str:
    found = _base(setting.unit)
    return f" with or without one of {', '.join(found[0])}" if found else " without a unit"


def _range_hint(setting: Setting) -> str:
    unit = f" in units of {setting.unit}" if setting.unit else ""
    return f", {setting.least} to {setting.most}{unit}"
