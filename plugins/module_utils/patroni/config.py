# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Patroni's dynamic configuration: which patch leads from what is there to what is declared, and what is refused. No I/O.

Sources: patroni/utils.py (patch_config), patroni/config.py (_validate_and_adjust_timeouts) and docs/dynamic_configuration.rst of
Patroni 3.0.2, 4.0.7 and 4.1.5.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusals

TIMING_DEFAULTS = {"ttl": 30, "loop_wait": 10, "retry_timeout": 10}
TIMING_MINIMA = {"ttl": 20, "loop_wait": 1, "retry_timeout": 3}

TOP_KEYS = frozenset(
    {
        "check_timeline",
        "failsafe_mode",
        "ignore_slots",
        "loop_wait",
        "master_start_timeout",
        "master_stop_timeout",
        "max_timelines_history",
        "maximum_lag_on_failover",
        "maximum_lag_on_syncnode",
        "member_slots_ttl",
        "pause",
        "postgresql",
        "primary_race_backoff",
        "primary_start_timeout",
        "primary_stop_timeout",
        "retry_timeout",
        "slots",
        "standby_cluster",
        "synchronous_mode",
        "synchronous_mode_strict",
        "synchronous_node_count",
        "ttl",
    }
)
POSTGRESQL_KEYS = frozenset(
    {
        "basebackup",
        "before_stop",
        "bin_dir",
        "bin_name",
        "callbacks",
        "create_replica_methods",
        "custom_conf",
        "parameters",
        "parameters_primary",
        "parameters_replica",
        "parameters_standby_leader",
        "pg_ctl_timeout",
        "pg_hba",
        "pg_hba_primary",
        "pg_hba_replica",
        "pg_hba_standby_leader",
        "pg_ident",
        "pg_ident_primary",
        "pg_ident_replica",
        "pg_ident_standby_leader",
        "pre_promote",
        "recovery_conf",
        "remove_data_directory_on_diverged_timelines",
        "remove_data_directory_on_rewind_failure",
        "rewind",
        "use_pg_rewind",
        "use_slots",
        "use_unix_socket",
        "use_unix_socket_repl",
    }
)
STANDBY_CLUSTER_KEYS = frozenset(
    {
        "archive_cleanup_command",
        "create_replica_methods",
        "host",
        "port",
        "primary_slot_name",
        "recovery_min_apply_delay",
        "restore_command",
    }
)
# Purging leaves these alone unless they are declared: without `pause` Patroni takes up its work again, and without
# `standby_cluster` it promotes a standby cluster.
KEPT_KEYS = frozenset({"pause", "standby_cluster"})


def patch_for(current: Mapping[str, Any], wish: Mapping[str, Any], *, purge: bool = False) -> dict[str, Any]:
    """Return the smallest body of PATCH /config that leads from current to wish; empty if all is as wished.

    A null in wish removes the key. With purge every key that wish does not have is removed, except KEPT_KEYS.
    """
    patch = _patch(current, wish, purge)
    if purge:
        patch = {key: value for key, value in patch.items() if key not in KEPT_KEYS or key in wish}
    return patch


def _patch(current: Mapping[str, Any], wish: Mapping[str, Any], purge: bool) -> dict[str, Any]:
    patch: dict[str, Any] = {}
    for key, value in wish.items():
        # A stored null counts as missing: Patroni's PATCH can't tell the two apart.
        there = current.get(key)
        if value is None:
            if there is not None:
                patch[key] = None
        elif isinstance(value, Mapping) and isinstance(there, Mapping):
            if inner := _patch(there, value, purge):
                patch[key] = inner
        elif there is None or not _same(there, value):
            patch[key] = _without_nulls(value)
    if purge:
        patch.update({key: None for key, value in current.items() if key not in wish and value is not None})
    return patch


def _same(there: Any, wished: Any) -> bool:
    """Patroni compares by the text of values: it ignores a patch from 5 to "5", so that is no difference here either.

    A mapping and a scalar always differ.
    """
    if isinstance(there, Mapping) or isinstance(wished, Mapping):
        return False
    return str(there) == str(wished)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


def apply_patch(current: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Patroni stores after PATCH /config with that body."""
    result = dict(current)
    for key, value in patch.items():
        there = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(there, Mapping):
            result[key] = apply_patch(there, value)
        elif key not in result or isinstance(value, Mapping) or str(there) != str(value):
            result[key] = value
    return result


def check(wish: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Refuse a wish with keys that Patroni doesn't know, and a result with timings that Patroni would silently change.

    Raises Refusals with every problem.
    """
    problems = (*_unknown_keys(wish), *timing_problems(result))
    if problems:
        raise Refusals(problems)


def _unknown_keys(wish: Mapping[str, Any]) -> Iterator[str]:
    yield from _unknown_in(wish, TOP_KEYS, "")
    postgresql = wish.get("postgresql")
    if isinstance(postgresql, Mapping):
        # Each method to make a replica has a section of its own name.
        methods = postgresql.get("create_replica_methods") or ()
        yield from _unknown_in(postgresql, POSTGRESQL_KEYS | frozenset(methods), "postgresql.")
    standby_cluster = wish.get("standby_cluster")
    if isinstance(standby_cluster, Mapping):
        yield from _unknown_in(standby_cluster, STANDBY_CLUSTER_KEYS, "standby_cluster.")


def _unknown_in(section: Mapping[str, Any], known: frozenset[str], prefix: str) -> Iterator[str]:
    for key in section:
        if key in known:
            continue
        close = difflib.get_close_matches(str(key), sorted(known), n=1, cutoff=0.6)
        hint = f", did you mean {prefix}{close[0]}?" if close else f"; known are {', '.join(sorted(known))}"
        yield f"{prefix}{key} is not a key of Patroni's dynamic configuration{hint}"


def timing_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is illegal about ttl, loop_wait and retry_timeout (seconds): Patroni would change them without a word."""
    values: dict[str, int] = {}
    for key, default in TIMING_DEFAULTS.items():
        try:
            values[key] = int(config.get(key, default))
        except (TypeError, ValueError):
            yield f"{key} is {config[key]!r}, allowed is a whole number of seconds"
            continue
        if values[key] < TIMING_MINIMA[key]:
            yield f"{key} is {values[key]} s, allowed is {TIMING_MINIMA[key]} s or more"
    if len(values) < len(TIMING_DEFAULTS):
        return
    needed = values["loop_wait"] + 2 * values["retry_timeout"]
    if needed > values["ttl"]:
        yield (
            f"loop_wait + 2 * retry_timeout is {values['loop_wait']} + 2 * {values['retry_timeout']} = {needed} s, "
            f"allowed is at most ttl = {values['ttl']} s: raise ttl, or lower loop_wait or retry_timeout"
        )
