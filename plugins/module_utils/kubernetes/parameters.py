# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Parameters of PostgreSQL as CloudNativePG takes them. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What its webhook refuses as its own. Source: FixedConfigurationParameters in pkg/postgres/configuration.go of CloudNativePG 1.30
# (commit a95a534d of 2026-08-21).
MANAGED = frozenset(
    {
        "allow_system_table_mods",
        "archive_mode",
        "bonjour",
        "bonjour_name",
        "cluster_name",
        "config_file",
        "data_directory",
        "data_sync_retry",
        "event_source",
        "external_pid_file",
        "hba_file",
        "hot_standby",
        "ident_file",
        "jit_provider",
        "listen_addresses",
        "logging_collector",
        "port",
        "primary_conninfo",
        "primary_slot_name",
        "recovery_target",
        "recovery_target_action",
        "recovery_target_inclusive",
        "recovery_target_lsn",
        "recovery_target_name",
        "recovery_target_time",
        "recovery_target_timeline",
        "recovery_target_xid",
        "restore_command",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
        "unix_socket_group",
        "unix_socket_permissions",
        "archive_cleanup_command",
        "archive_command",
        "log_destination",
        "log_directory",
        "log_file_mode",
        "log_filename",
        "log_rotation_age",
        "log_rotation_size",
        "log_truncate_on_rotation",
        "pg_failover_slots.primary_dsn",
        "pg_failover_slots.standby_slot_names",
        "promote_trigger_file",
        "recovery_end_command",
        "recovery_min_apply_delay",
        "restart_after_crash",
        "ssl",
        "ssl_ca_file",
        "ssl_cert_file",
        "ssl_crl_file",
        "ssl_dh_params_file",
        "ssl_key_file",
        "ssl_passphrase_command",
        "ssl_passphrase_command_supports_reload",
        "ssl_prefer_server_ciphers",
        "stats_temp_directory",
        "synchronous_standby_names",
        "synchronized_standby_slots",
        "syslog_facility",
        "syslog_ident",
        "syslog_sequence_numbers",
        "syslog_split_messages",
    }
)
# What it takes but has its own mind about: pg_rewind needs wal_log_hints, the log is CSV without a prefix, passwords are SCRAM.
ITS_OWN = frozenset({"wal_log_hints", "log_line_prefix", "password_encryption"})


def text(value: Any) -> str:
    """Return a value as text, which is the only type that the field takes."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def split(declared: Mapping[str, Any]) -> tuple[dict[str, str], list[str], list[str]]:
    """Return (parameters, libraries to preload, names that are left out as CloudNativePG manages them)."""
    lowered = {str(name).lower(): value for name, value in declared.items()}
    libraries = [word.strip() for word in text(lowered.get("shared_preload_libraries", "")).split(",") if word.strip()]
    left = sorted((MANAGED | ITS_OWN) & lowered.keys() - {"shared_preload_libraries"})
    return {n: text(v) for n, v in sorted(lowered.items()) if n not in MANAGED | ITS_OWN}, libraries, left


def of_memory(mebibytes: int, connections: int) -> dict[str, str]:
    """Return the settings of memory, by the rules of the role patroni, for a container that has so much for itself."""
    return {
        "shared_buffers": f"{max(128, mebibytes // 4)}MB",
        "effective_cache_size": f"{max(128, mebibytes // 2)}MB",
        "maintenance_work_mem": f"{min(max(64, mebibytes // 16), 2048)}MB",
        "work_mem": f"{min(max(4, mebibytes // 4 // connections), 256)}MB",
    }
