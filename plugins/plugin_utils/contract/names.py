# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Which names of variables a playbook may be called with. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.variables import nearest
from ansible_collections.holdfast.persistence.plugins.plugin_utils.contract.model import HELP, Contract, whole

# How like a known name another one is that is taken for a misspelling of it; one letter too few, too many or wrong
# in the shortest of our names is 0.9.
_MISSPELT = 0.88
_TAGS_OF_ANSIBLE = frozenset({"all", "always", "never", "tagged", "untagged"})
# In whose groups the plays of a tag are; the tags of the other plays are about every host.
_GROUPS_OF_TAGS = {
    "backup": ("backup", "postgresql"),
    "balancer": ("balancer",),
    "etcd": ("etcd",),
    "haproxy": ("balancer",),
    "patroni": ("postgresql",),
    "pgbackrest": ("backup", "postgresql"),
    "pgbouncer": ("balancer",),
    "postgresql": ("postgresql",),
    "valkey": ("valkey",),
}
_WAY_OUT = "list it in preflight_extra_variables if it is yours"


def refusals(
    given: Collection[str],
    called: Collection[str],
    contracts: Mapping[str, Contract],
    role_options: Mapping[str, Collection[str]],
    mine: Collection[str],
) -> Iterator[str]:
    """Yield a sentence for every name that a playbook does not know.

    Parameters: given, the names of `--extra-vars`; called, the playbooks that were called, by name, or none where
    somebody else's playbook runs ours; contracts, of all playbooks; role_options, for each role the names that it
    declares; mine, names that the operator says are theirs.
    """
    options = {name for playbook in called or contracts for name in whole(playbook, contracts)} | {HELP}
    renamed = {old: new for contract in contracts.values() for old, new in contract.renamed.items()}
    elsewhere = {name: playbook for playbook, contract in contracts.items() for name in contract.names}
    declared = {name for names in role_options.values() for name in names}
    prefixes = (
        *(f"{role}_" for role in role_options),
        *sorted({f"{name.split('_')[0]}_" for name in options - {HELP}}),
    )
    for name in sorted(set(given) - options - declared - set(mine)):
        if name.startswith("ansible_"):
            continue
        if name in renamed:
            yield f"{name} is called {renamed[name]} now: use that name"
        elif name in elsewhere:
            yield f"{name} belongs to {elsewhere[name]}.yml and has no meaning here: leave it out"
        else:
            yield from _unknown(name, options | declared | elsewhere.keys(), prefixes)


def unknown_tags(given: Collection[str], called: Collection[str], contracts: Mapping[str, Contract]) -> Iterator[str]:
    """Yield a sentence for every tag that no play of the playbooks has: they would do nothing.

    Parameters: given, the names of `--tags` and `--skip-tags`; called and contracts, as of refusals.
    """
    if not called:
        return
    known = sorted({tag for playbook in called for tag in contracts[playbook].tags})
    for tag in sorted(set(given) - set(known) - _TAGS_OF_ANSIBLE):
        yield f"--tags {tag} is not known: allowed is {', '.join(known) or 'none'}"


def missing_hosts(contract: Contract, hosts: Collection[str], groups: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Yield a sentence for each kind of hosts that the playbook needs and the run does not have.

    Parameters: hosts, of the run, within --limit; groups, of the inventory, each with its hosts.
    """
    for kind in contract.needs:
        if not any(set(groups.get(group, ())) & set(hosts) for group in kind):
            outside = " within --limit" if any(groups.get(group) for group in kind) else ""
            yield f"there is no host in the group {' or '.join(kind)}{outside}, so {contract.playbook}.yml would do nothing"


def idle_tags(given: Collection[str], hosts: Collection[str], groups: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Yield a sentence for each tag that was asked for and whose plays have no host.

    Parameters: given, the names of `--tags`; hosts and groups, as of missing_hosts.
    """
    for tag in sorted(set(given) & _GROUPS_OF_TAGS.keys()):
        kind = _GROUPS_OF_TAGS[tag]
        if not any(set(groups.get(group, ())) & set(hosts) for group in kind):
            outside = " within --limit" if any(groups.get(group) for group in kind) else ""
            yield f"there is no host in the group {' or '.join(kind)}{outside}, so --tags {tag} would do nothing"


def _unknown(name: str, known: Collection[str], prefixes: tuple[str, ...]) -> Iterator[str]:
    with_prefix = name.startswith(prefixes)
    meant = nearest(name, known, 0.6 if with_prefix else _MISSPELT)
    if meant:
        yield f"{name} is not known, the nearest name is {meant}: use that one, or {_WAY_OUT}"
    elif with_prefix:
        yield f"{name} is not known, no name is like it: leave it out, or {_WAY_OUT}"
