# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Rules about the packages that hosts need. No I/O."""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import Host, Inventory, Problem, rule

# What an operator can leave out, by the platform's list that the package is in.
_OPTIONAL = {
    "offsite": "take backup_offsite out until the release has it",
    "virtual_address": "leave cluster_vip out",
    "time": "set host_time_sync to false where something else keeps the clock",
    "firewall": "set host_firewall to false",
}


@rule("package_unavailable", reads=("host_packages_extra",))
def packages(inventory: Inventory) -> Iterator[Problem]:
    """Refuse hosts that need packages which their package sources don't have, or can't deliver."""
    for host, probe in inventory.probed():
        release = probe.os_name or probe.os_codename
        for item in host.unavailable:
            if item.package:
                found = f"no such package in the package sources of {release}"
                found += f" (apt-get update says: {item.reason})" if item.reason else ""
            else:
                found = f"packages that apt on {release} refuses to install together: {item.reason}"
            yield Problem(
                rule="package_unavailable",
                hosts=(host.name,),
                subject=f"package {item.package}" if item.package else "packages",
                found=found,
                allowed="every package that the host's groups and the declared features need",
                remedy=_remedy(inventory, host, item.package, item.reason),
            )


def _remedy(inventory: Inventory, host: Host, package: str, reason: str) -> str:
    if reason:
        return "look at the host with apt-get update and apt-get --simulate install, and repair its package sources"
    lists = (inventory.platform(host) or {}).get("packages", {})
    names = [name for name, listed in lists.items() if package in listed]
    if not names and package in (host.value("host_packages_extra") or []):
        return "correct host_packages_extra, or add a package source that has it"
    first = [_OPTIONAL[name] for name in names if name in _OPTIONAL]
    return ", or ".join([*first, "add a package source that has it, or use another release"])
