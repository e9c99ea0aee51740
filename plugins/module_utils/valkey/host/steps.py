# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What brings the Valkey servers of one host to their configuration: steps as data, from what stands there. No I/O.

Files are written last, and what a running server has loaded is remembered before and after it is told: a run that is killed
between any two steps leaves a host on which the next run finds what is left.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import databases
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.host.config import (
    changed_users,
    check_apart,
    check_ports,
    for_version,
    instance_text,
    make_plan,
    masked_acl,
    parse_config,
    parse_size,
    render_setting,
    same,
    share_memory,
    unknown_settings,
    version_numbers,
)

# Settings whose values stay out of results.
SECRET_SETTINGS = frozenset(
    {"primaryauth", "masterauth", "requirepass", "tls-key-file-pass", "tls-client-key-file-pass"}
)
TLS_FILES = ("tls-cert-file", "tls-key-file", "tls-ca-cert-file")
# What waits for a restart beside settings: a program that is newer on disk.
PROGRAM = "program"

# What steps do: make a data folder; write a file; make a server load its users, know which it has; remember what left its file;
# set settings; remember what it has loaded.
FOLDER, WRITE, LOAD_ACL, KNOW_ACL, LEFT, SET, LOADED = (
    "folder",
    "write",
    "load_acl",
    "know_acl",
    "left",
    "set",
    "loaded",
)


@dataclass(frozen=True)
class Wish:
    """What one instance shall be. maxmemory in bytes; path and text: of its configuration file; settings: those in the text."""

    port: int
    maxmemory: int
    path: str
    text: str
    settings: Mapping[str, str]

    @property
    def tls_files(self) -> list[str]:
        """Paths of the certificate, its key and the authorities."""
        return sorted({self.settings[name] for name in TLS_FILES if self.settings.get(name)})


@dataclass(frozen=True)
class Template:
    """One instance's configuration before it is known which version of the server takes it."""

    port: int
    maxmemory: int
    path: str
    text: str

    def wish(self, version: str) -> Wish:
        """Return it for a version. Raises Refusal."""
        text = for_version(self.text, version)
        return Wish(self.port, self.maxmemory, self.path, text, parse_config(text, self.path))


@dataclass(frozen=True)
class Running:
    """A running server.

    live: its settings. removed: settings that left its file since it started. outdated: whether its program was replaced on disk.
    stale: files of TLS that it has not loaded as they are. acl_loaded: whether it has loaded the wished users and nobody changed
    them since. filled: the databases that hold keys.
    """

    version: str
    live: Mapping[str, str]
    removed: tuple[str, ...] = ()
    outdated: bool = False
    stale: tuple[str, ...] = ()
    acl_loaded: bool = False
    filled: tuple[int, ...] = ()


@dataclass(frozen=True)
class Found:
    """What stands on the host of one instance. on_disk: its configuration file. folder: whether its data folder is there."""

    on_disk: str
    folder: bool
    server: Running | None = None


@dataclass(frozen=True)
class Step:
    """One thing to do for an instance. path: of a file or folder; before and text: its content; settings: to set; names: that left."""

    verb: str
    port: int
    path: str = ""
    before: str = ""
    text: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """What becomes of a running server.

    live: settings to set, before: as they are. restart: what waits for one. removed, stale: as in Running.
    """

    live: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, str] = field(default_factory=dict)
    restart: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()


def templates(
    wishes: Sequence[Mapping[str, Any]],
    config: str,
    settings: Mapping[str, Any],
    replication: tuple[str, str],
    *,
    memory: int,
    fraction: float,
    folder: str,
    version: str,
) -> list[Template]:
    """Return the instances as they shall be.

    Parameters: wishes, the elements of the option instances; config and settings of all; replication, user and password of
    replicas; memory of the host in bytes and the fraction of it for data; folder of the configuration files; version that is
    installed. Raises Refusal for what cannot be.
    """
    check_ports([wish["port"] for wish in wishes])
    share = share_memory(memory, fraction, {wish["port"]: _size(wish) for wish in wishes})
    secret = dict(zip(("primaryuser", "primaryauth"), replication, strict=True))
    text = config.rstrip("\n") + "\n\n# Replicas log in at their primary as\n"
    text += "\n".join(render_setting(*pair) for pair in secret.items())
    found = []
    for wish in wishes:
        port = wish["port"]
        own = {**settings, "maxmemory": share[port], **wish["settings"]}
        found.append(Template(port, share[port], f"{folder}/valkey-{port}.conf", instance_text(text, port, own)))
    wished = {template.port: template.wish(version).settings for template in found}
    for parsed in wished.values():
        missing = [name for name in ("aclfile", "dir", "unixsocket") if not parsed.get(name)]
        if missing:
            raise Refusal(f"config: directive {missing[0]} is missing", "Add it")
    check_apart(wished)
    return found


def _size(wish: Mapping[str, Any]) -> int | None:
    """Return the maxmemory of an instance in bytes, None if it has none of its own. Raises Refusal."""
    if wish["maxmemory"] is None:
        return None
    size = parse_size(wish["maxmemory"])
    if not size:
        where = f"valkey_instances, port {wish['port']}, maxmemory"
        raise Refusal(f"{where}: {wish['maxmemory']!r} is not a size", "Write bytes, or a number with kb, mb or gb")
    return size


def acl_for(acl: str, running: Sequence[str], installed: str) -> str:
    """Return the file of users as the oldest of the running versions takes it, else the installed one."""
    return for_version(acl, min(running, key=version_numbers, default=installed))


def change(wish: Wish, found: Found) -> Change:
    """Return what becomes of an instance, nothing where its server does not run. Raises Refusal for what its server can't be given."""
    server = found.server
    if server is None:
        return Change()
    unknown = unknown_settings(wish.settings, server.live)
    if unknown:
        name, near = next(iter(unknown.items()))
        remedy = f"Did you mean {near}?" if near else "Remove it from valkey_settings"
        raise Refusal(f"valkey {wish.port}: this version of the server has no setting {name}", remedy)
    _check_databases(wish, server)
    plan = make_plan(wish.settings, server.live, parse_config(found.on_disk), server.removed, server.version)
    return Change(
        live=plan.live,
        before={name: server.live[name] for name in plan.live},
        restart=(*plan.restart, *((PROGRAM,) if server.outdated else ())),
        removed=plan.removed,
        stale=server.stale,
    )


def _check_databases(wish: Wish, server: Running) -> None:
    """Refuse fewer databases than hold keys: a member of a cluster that starts with fewer can't load its data."""
    if server.live.get("cluster-enabled") != "yes":
        return
    number, last = int(wish.settings.get(databases.SETTING, 1)), max(server.filled, default=0)
    if number <= last:
        raise Refusal(
            f"valkey {wish.port}: {databases.SETTING} {number} is too few, database {last} holds keys",
            f"Nothing was changed. Set it to {last + 1} or more in valkey_settings, or empty the databases from {number} on",
        )


def steps(
    wishes: Sequence[Wish], found: Mapping[int, Found], changes: Mapping[int, Change], acl: tuple[str, str]
) -> list[Step]:
    """Return all that is left to do on the host, in order.

    Parameters: wishes; what was found and what becomes of it, by port; acl, the file of users before and after.
    """
    first = wishes[0]
    path, (before, after) = first.settings["aclfile"], acl
    left = [Step(FOLDER, wish.port, wish.settings["dir"]) for wish in wishes if not found[wish.port].folder]
    left += [Step(WRITE, first.port, path, before, after)] if before != after else []
    for wish in wishes:
        server = found[wish.port].server
        if server and "aclfile" not in changes[wish.port].restart:
            left += [] if server.acl_loaded else [Step(LOAD_ACL, wish.port, path, before, after)]
            left.append(Step(KNOW_ACL, wish.port, path, before, after))
    for wish in wishes:
        left += _steps_of(wish, found[wish.port], changes[wish.port])
    return left


def _steps_of(wish: Wish, found: Found, change: Change) -> list[Step]:
    """Memory, live settings, TLS files, at last the configuration file."""
    left = []
    if found.server:
        # Setting one of them loads all three.
        reloaded = {name: wish.settings[name] for name in TLS_FILES if wish.settings.get(name) in change.stale}
        left.append(Step(LEFT, wish.port, names=change.removed))
        settings = {**change.live, **reloaded}
        left += [Step(SET, wish.port, settings=settings)] if settings else []
        left.append(Step(LOADED, wish.port))
    if wish.text != found.on_disk:
        left.append(Step(WRITE, wish.port, wish.path, found.on_disk, wish.text))
    return left


def check_set(wish: Wish, names: Sequence[str], live: Mapping[str, str]) -> None:
    """Raise Refusal unless a server has the settings that it was given, by what it says of them afterwards."""
    wrong = [name for name in names if not same(name, wish.settings[name], live[name])]
    if wrong:
        found = f"{wrong[0]} is {live[wrong[0]]!r} after CONFIG SET to {wish.settings[wrong[0]]!r}"
        raise Refusal(f"valkey {wish.port}: {found}", "Write the value in the form that the server reports")


def file_diff(step: Step) -> dict[str, str]:
    """Return what a diff shows of a folder or file, without secrets."""
    header = {"before_header": step.path, "after_header": step.path}
    if step.verb == FOLDER:
        return {"before": "", "after": "folder\n", **header}
    before, after = (masked_config(masked_acl(text)) for text in (step.before, step.text))
    users = changed_users(step.before, step.text)
    if before == after and users:
        after += f"# new passwords: {', '.join(users)}\n"
    return {"before": before, "after": after, **header}


def masked_config(text: str) -> str:
    """Return a configuration without its secrets, for people."""
    return re.sub(rf"(?m)^({'|'.join(sorted(SECRET_SETTINGS))}) .*$", r"\1 (secret)", text)


def live_diff(wish: Wish, live: Mapping[str, str], before: Mapping[str, str], loaded: Sequence[str]) -> dict[str, str]:
    """Return what a diff shows of a running server. live: what was set; loaded: files it loaded again."""

    def show(values: Mapping[str, str], secret: str) -> str:
        shown = {name: secret if name in SECRET_SETTINGS else values[name] for name in sorted(live)}
        return "".join(f"{name} {value}\n" for name, value in shown.items())

    title = f"running server {wish.port}"
    after = show(wish.settings, "(new secret)") + "".join(f"# loaded again: {path}\n" for path in loaded)
    return {"before": show(before, "(secret)"), "after": after, "before_header": title, "after_header": title}
