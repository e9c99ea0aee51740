# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Whose is a PostgreSQL data directory? No I/O.

Sources: PostgreSQL's src/include/catalog/pg_control.h (the file global/pg_control begins with the system identifier, an unsigned
64-bit number in the machine's byte order) and src/bin/pg_ctl (postmaster.opts keeps the last command line). Patroni starts
PostgreSQL with --cluster_name=SCOPE and keeps patroni.dynamic.json in the data directory, also in copies made for replicas.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


@dataclass(frozen=True)
class DataDirectory:
    """What is in a data directory. version, postmaster_opts are texts of the files, control the bytes of global/pg_control."""

    path: str
    entries: frozenset[str] = frozenset()
    version: str = ""
    control: bytes = b""
    postmaster_opts: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether Patroni may fill it. A file system's own folder does not count for it: initdb refuses to use one."""
        return not self.entries

    @property
    def system_identifier(self) -> str:
        """The cluster's number as Patroni writes it, empty where there is none."""
        return str(int.from_bytes(self.control[:8], sys.byteorder)) if len(self.control) >= 8 else ""

    @property
    def cluster_name(self) -> str:
        """The name of the Patroni cluster under which PostgreSQL ran last, empty where it never did."""
        match = re.search(r"--cluster_name=([^\"\s]+)", self.postmaster_opts)
        return match.group(1) if match else ""


def judge(directory: DataDirectory, cluster_name: str, version: str, system_identifier: str | None) -> str:
    """Return 'empty' or 'ours'.

    Parameters: directory; cluster_name, Patroni's scope; version, the major version such as 17; system_identifier, that of the
    running cluster, None where no member answers.
    Raises Refusal for anything that is not this cluster's.
    """
    if directory.is_empty:
        return "empty"
    if not directory.version:
        names = ", ".join(sorted(directory.entries)[:5])
        raise _foreign(
            directory.path,
            f"holds no whole PostgreSQL data directory but other files ({names})",
            "an empty or missing directory",
        )
    if directory.version != version:
        raise _foreign(directory.path, f"is of PostgreSQL {directory.version}", f"version {version}")
    if system_identifier is not None and directory.system_identifier != system_identifier:
        raise _foreign(
            directory.path,
            f"belongs to the database system {directory.system_identifier}",
            f"the system {system_identifier} of the running cluster {cluster_name}",
        )
    if directory.cluster_name not in ("", cluster_name):
        raise _foreign(directory.path, f"ran as cluster {directory.cluster_name}", f"cluster {cluster_name}")
    if system_identifier is None and not directory.cluster_name and "patroni.dynamic.json" not in directory.entries:
        raise _foreign(
            directory.path,
            "holds a PostgreSQL data directory that never ran under Patroni",
            f"one of the cluster {cluster_name}",
        )
    return "ours"


def _foreign(path: str, found: str, allowed: str) -> Refusal:
    remedy = (
        "Nothing was changed. Move the directory away if its data is not needed, or correct cluster_name or the host"
    )
    return Refusal(f"{path} {found}; allowed is {allowed}", remedy)
