# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""All rules over one inventory, and the text of what they found. No I/O."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
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
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import (
    HOST_READS,
    Inventory,
    Problem,
    Rule,
)

# In the order in which an operator repairs an inventory: groups, names, values, network, tiers, machines.
_ROOMS = (
    groups,
    variables,
    controller,
    timings,
    network,
    placement,
    postgresql,
    backup,
    clock,
    machine,
    data_dirs,
    packages,
)
RULES: tuple[Rule, ...] = tuple(value for room in _ROOMS for value in vars(room).values() if isinstance(value, Rule))

# What a host that leaves may break: these look at groups and declared values, not at machines.
SHAPE: tuple[Rule, ...] = (
    groups.group_needs,
    groups.etcd_members,
    network.virtual_address,
    placement.valkey_shape,
    backup.repositories,
)

# Variables whose defaults rules need, and the files that belong to the controller.
NEEDED = frozenset(HOST_READS).union(*(rule.reads for rule in RULES))

# Every name that a problem may carry and `preflight_skip_rules` may list; the first is of a host that did not answer the probe.
RULE_NAMES = tuple(sorted(frozenset({"host_unreachable"}).union(*(rule.names for rule in RULES))))


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


def judge_left(inventory: Inventory, leaving: str, tiers: Iterable[str], skip: Iterable[str] = ()) -> Verdict:
    """Judge the inventory that is left once a host has left groups.

    Parameters: leaving, the host's name; tiers, the groups that it leaves; skip, as of `judge`. A rule that the inventory breaks
    with the host, too, is not broken by its leaving and stops nothing.
    """
    before = {problem.rule for rule in SHAPE for problem in rule(inventory) if not problem.warning}
    after = without(inventory, leaving, frozenset(tiers))
    found = merge(problem for rule in SHAPE for problem in rule(after))
    broken = [problem for problem in found if not problem.warning and problem.rule not in before]
    skipped = frozenset(skip)
    return Verdict(
        problems=tuple(problem for problem in broken if problem.rule not in skipped),
        warnings=tuple(problem for problem in found if problem.warning),
        accepted=tuple(problem for problem in broken if problem.rule in skipped),
    )


def without(inventory: Inventory, leaving: str, tiers: frozenset[str]) -> Inventory:
    """Return the inventory with a host taken out of groups."""
    hosts = tuple(
        replace(host, groups=host.groups - tiers) if host.name == leaving else host for host in inventory.hosts
    )
    kept = {
        group: tuple(name for name in names if name != leaving) if group in tiers else names
        for group, names in inventory.groups.items()
    }
    return replace(inventory, hosts=hosts, groups=kept)


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
