"""All rules over one inventory, and the text of what they found. No I/O."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from ansible_collections.holdfast.persistence.plugins.module_utils.preflight import (
    backup,
    clock,
    controller,
    data_dirs,
    groups,
    machine,
    network,
    packages,
    placement,
    postgresql,
    timings,
    variables,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import Inventory, Problem

Rule = Callable[[Inventory], Iterator[Problem]]

# In the order in which an operator repairs an inventory: groups, names, values, network, tiers, machines.
RULES: tuple[Rule, ...] = (
    groups.unknown_groups,
    groups.hosts_without_role,
    groups.group_needs,
    groups.etcd_members,
    variables.failed_variables,
    variables.unknown_variables,
    variables.bad_values,
    variables.secrets,
    controller.authority,
    controller.first_run,
    controller.missing_secrets,
    timings.cluster_wide,
    timings.timings,
    network.addresses,
    network.address_on_host,
    network.virtual_address,
    network.port_clashes,
    network.port_moved,
    network.port_taken,
    placement.valkey_shape,
    placement.valkey_users,
    postgresql.database_names,
    postgresql.shadowed_databases,
    postgresql.hba_lines,
    postgresql.pool_sizes,
    backup.repositories,
    backup.releases,
    backup.schedules,
    machine.releases,
    machine.postgresql_versions,
    clock.clock_skew,
    machine.time_synchronisation,
    machine.memory,
    machine.disks,
    machine.data_directories,
    data_dirs.directories,
    data_dirs.wal_folders,
    data_dirs.locales,
    packages.packages,
)

# The variables that rules read by name.
NEEDED = frozenset(
    {
        "ansible_host",
        "cluster_address",
        "cluster_secrets_dir",
        "cluster_tls_dir",
        "cluster_vip_prefix",
        "cluster_zone",
        "etcd_data_dir",
        "haproxy_liveness_port",
        "host_packages_extra",
        "host_time_sync",
        "patroni_data_dir",
        "patroni_databases",
        "patroni_hba",
        "patroni_host_parameters",
        "patroni_max_connections",
        "patroni_memory",
        "patroni_users",
        "patroni_wal_dir",
        "pgbackrest_repositories",
        "pgbouncer_databases",
        "pgbouncer_default_pool_size",
        "pgbouncer_max_database_connections",
        "pgbouncer_read_only_databases",
        "pgbouncer_reserve_pool_size",
        "tls_folder",
        "pgbouncer_session_databases",
        "pgbouncer_session_max_connections",
        "pgbouncer_session_pool_size",
        "valkey_instances",
        "valkey_memory_fraction",
        "valkey_users",
        "zone",
        *(network.PORT_VARIABLE + name for name in network.PORT_NAMES),
        *timings.CLUSTER_WIDE,
    }
)

# Every name that a problem may carry and `preflight_skip_rules` may list.
RULE_NAMES = (
    "address_duplicate",
    "address_loopback",
    "address_not_ip",
    "address_not_on_host",
    "authority",
    "backup_schedule",
    "bad_value",
    "clock_skew",
    "cluster_wide",
    "database_name",
    "disk_read_only",
    "disk_space",
    "empty_inventory",
    "etcd_data_dir",
    "etcd_members",
    "etcd_single",
    "fixed_variable",
    "group_needs",
    "hba_line",
    "host_unreachable",
    "host_without_role",
    "locale_missing",
    "memory",
    "missing_secret",
    "misspelt_variable",
    "os_release",
    "package_unavailable",
    "pgbackrest_release",
    "pgbackrest_repository",
    "pool_size",
    "pool_sizes",
    "port_clash",
    "port_moved",
    "port_range",
    "port_taken",
    "postgresql_data_dir",
    "postgresql_data_dir_mount",
    "postgresql_data_dir_moved",
    "postgresql_single",
    "postgresql_version",
    "postgresql_version_mixed",
    "postgresql_wal_dir",
    "python_version",
    "systemd",
    "template_error",
    "time_sync",
    "timing_profile",
    "timing_range",
    "unknown_group",
    "unknown_variable",
    "valkey_data_dir",
    "valkey_majority",
    "valkey_placement",
    "valkey_primaries",
    "valkey_remainder",
    "valkey_user_reserved",
    "valkey_zones",
    "vip_is_host",
    "vip_network",
    "vip_not_ip",
    "vip_without_balancer",
    "weak_secret",
)


@dataclass(frozen=True)
class Verdict:
    """Problems stop a run, warnings don't, accepted are what the operator chose to live with."""

    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    accepted: tuple[Problem, ...]


def judge(inventory: Inventory, skip: Iterable[str] = (), more: Iterable[Problem] = ()) -> Verdict:
    """Apply all rules.

    Parameters: skip, names of rules whose problems become `accepted`; more, problems found elsewhere.
    An unknown name in skip is a problem itself, so that a misspelt one doesn't look accepted.
    """
    skipped = frozenset(skip)
    found = [*more, *_unknown_skips(skipped), *(problem for rule in RULES for problem in rule(inventory))]
    merged = merge(found)
    kept = [problem for problem in merged if problem.rule not in skipped]
    return Verdict(
        problems=tuple(problem for problem in kept if not problem.warning),
        warnings=tuple(problem for problem in kept if problem.warning),
        accepted=tuple(problem for problem in merged if problem.rule in skipped),
    )


def merge(problems: Iterable[Problem]) -> list[Problem]:
    """Join problems that differ only in their hosts, in the order of first appearance."""
    joined: dict[Problem, list[str]] = {}
    for problem in problems:
        hosts = joined.setdefault(replace(problem, hosts=()), [])
        hosts.extend(name for name in problem.hosts if name not in hosts)
    return [replace(problem, hosts=tuple(hosts)) for problem, hosts in joined.items()]


def _unknown_skips(skipped: frozenset[str]) -> Iterator[Problem]:
    for name in sorted(skipped - set(RULE_NAMES)):
        close = difflib.get_close_matches(name, RULE_NAMES, n=1, cutoff=0.5)
        yield Problem(
            rule="bad_value",
            hosts=(),
            subject="preflight_skip_rules",
            found=f"the unknown rule {name}",
            allowed=", ".join(RULE_NAMES),
            remedy=f"write {close[0]}" if close else "remove it",
        )


def render(problems: Iterable[Problem]) -> str:
    """Return problems as a numbered list for people, one line each."""
    return "\n".join(f"{number:>3}. {sentence(problem)}" for number, problem in enumerate(problems, start=1))


def sentence(problem: Problem) -> str:
    """Return a problem as one line."""
    where = f"{problem.where}: " if problem.where else ""
    return f"{where}found {problem.found}; allowed {problem.allowed}; do: {problem.remedy}. [{problem.rule}]"
