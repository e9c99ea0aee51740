# SPDX-License-Identifier: Apache-2.0
"""The steps to a configuration on a made-up host, on which any step may be the last one before the run is killed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.host import steps
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.host.config import parse_config
from hypothesis import given
from hypothesis import strategies as st

ACL = "/etc/valkey/users.acl"
KEY = "/etc/holdfast/valkey.pem"
CONFIG = f"aclfile {ACL}\ndir /data/{{port}}\nunixsocket /run/{{port}}\ntls-cert-file {KEY}\n"
DEFAULTS = {"maxmemory-policy": "noeviction", "databases": "16", "timeout": "0"}
PORTS = (7001, 7002)


class KilledError(Exception):
    """The run ended here."""


def wishes(settings: dict[str, str]) -> list[steps.Wish]:
    options = [{"port": port, "maxmemory": "64mb", "settings": {}} for port in PORTS]
    found = steps.templates(
        options,
        CONFIG,
        settings,
        ("replication", "staple"),
        memory=1 << 30,
        fraction=0.6,
        folder="/etc/valkey",
        version="9.1",
    )
    return [template.wish("9.1") for template in found]


@dataclass
class Server:
    """A running server and what is remembered of it, in files, and at hand in the run."""

    live: dict[str, str]
    users: str
    key: str
    removed: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    at_hand: dict[str, str] = field(default_factory=dict)


@dataclass
class Host:
    """A host whose servers run with the first settings, and which shall have others."""

    files: dict[str, str]
    servers: dict[int, Server]
    folders: set[str]
    left: int = 10_000

    def run(self, settings: dict[str, str], users: str) -> list[steps.Step]:
        """Run once; return the steps that changed anything."""
        wanted = wishes(settings)
        for server in self.servers.values():
            server.at_hand = dict(server.files)
        found = {wish.port: self.found(wish, users) for wish in wanted}
        changes = {wish.port: steps.change(wish, found[wish.port]) for wish in wanted}
        todo = steps.steps(wanted, found, changes, (self.files.get(ACL, ""), users))
        return [step for step in todo if self.do(step)]

    def found(self, wish: steps.Wish, users: str) -> steps.Found:
        server = self.servers.get(wish.port)
        seen = None
        if server:
            stale = (KEY,) if server.files.get(KEY, server.key) != self.files[KEY] else ()
            known = server.files.get(ACL, server.users) == users and server.users == users
            seen = steps.Running("9.1", dict(server.live), server.removed, stale=stale, acl_loaded=known)
        return steps.Found(self.files.get(wish.path, ""), wish.settings["dir"] in self.folders, seen)

    def do(self, step: steps.Step) -> bool:
        self.left -= 1
        if self.left < 0:
            raise KilledError
        if step.verb == steps.FOLDER:
            self.folders.add(step.path)
            return True
        if step.verb == steps.WRITE:
            self.files[step.path] = step.text
            return True
        server = self.servers[step.port]
        if step.verb == steps.LOAD_ACL:
            changed, server.users = server.users != self.files[ACL], self.files[ACL]
            return changed
        if step.verb == steps.KNOW_ACL:
            server.at_hand[ACL] = step.text
        elif step.verb == steps.LEFT:
            server.removed, server.files = step.names, dict(server.at_hand)
        elif step.verb == steps.SET:
            server.live.update(step.settings)
            if "tls-cert-file" in step.settings:
                server.key = self.files[KEY]
            return True
        else:
            assert step.verb == steps.LOADED
            server.files = {**server.at_hand, KEY: self.files[KEY]}
        return False


def host(settings: dict[str, str], users: str, running: tuple[int, ...] = PORTS) -> Host:
    """Return a host that has these settings, its key replaced since its servers started."""
    files = {wish.path: wish.text for wish in wishes(settings)}
    servers = {
        wish.port: Server({**DEFAULTS, **wish.settings}, users, "old key")
        for wish in wishes(settings)
        if wish.port in running
    }
    return Host({**files, ACL: users, KEY: "new key"}, servers, {f"/data/{port}" for port in PORTS})


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "maxmemory-policy": st.sampled_from(["allkeys-lru", "volatile-ttl"]),
        "databases": st.sampled_from(["3", "4"]),
        "timeout": st.sampled_from(["1", "2"]),
    },
)


@given(
    SETTINGS,
    SETTINGS,
    st.sampled_from(["user a", "user b"]),
    st.sets(st.sampled_from(PORTS)),
    st.lists(st.integers(0, 12), max_size=5),
)
def test_killed_between_any_two_steps_the_next_run_ends_the_same(first, second, users, running, kills):
    killed, whole = (host(first, "user a", tuple(sorted(running))) for _host in range(2))
    whole.run(second, users)
    for after in kills:
        killed.left = after
        with contextlib.suppress(KilledError):
            killed.run(second, users)
    killed.left = 10_000
    killed.run(second, users)
    for one in (killed, whole):
        for server in one.servers.values():
            server.at_hand = {}
    assert killed == replace(whole, left=killed.left)
    assert killed.run(second, users) == [], "a second run changes nothing"


@given(SETTINGS, SETTINGS)
def test_what_runs_is_what_is_wished_but_for_what_waits_for_a_restart(first, second):
    found = host(first, "user a")
    found.run(second, "user a")
    for wish in wishes(second):
        server = found.servers[wish.port]
        change = steps.change(wish, found.found(wish, "user a"))
        # A setting that left, and one that a server reads at its start only.
        started = {**DEFAULTS, **first}
        waits = {name for name in first if name not in second}
        waits |= {name for name in {"databases"} & set(second) if second[name] != started[name]}
        assert set(change.restart) == waits
        assert not change.live
        for name, value in second.items():
            assert server.live[name] == value or name in change.restart


def test_bare_instances_get_folders_users_and_files_in_that_order():
    empty = Host({KEY: "key"}, {}, set())
    verbs = [(step.verb, step.path) for step in empty.run({}, "user a")]
    configs = [(steps.WRITE, f"/etc/valkey/valkey-{port}.conf") for port in PORTS]
    assert verbs == [*((steps.FOLDER, f"/data/{port}") for port in PORTS), (steps.WRITE, ACL), *configs]


def test_users_are_not_loaded_from_a_file_that_the_server_does_not_know_yet():
    found = host({}, "user a")
    for server in found.servers.values():
        server.live["aclfile"] = "/elsewhere"
    assert not [step for step in found.run({}, "user b") if step.verb == steps.LOAD_ACL]


def test_a_setting_that_no_server_has_is_refused_with_the_nearest_one():
    found = host({}, "user a")
    with pytest.raises(Refusal, match=r"valkey 7001: .* has no setting timeoot. Did you mean timeout\?"):
        found.run({"timeoot": "1"}, "user a")


@pytest.mark.parametrize(
    ("settings", "filled", "words"),
    [
        ({"cluster-databases": "3"}, (0, 2), None),
        (
            {"cluster-databases": "2"},
            (0, 2),
            "cluster-databases 2 is too few, database 2 holds keys.*Set it to 3 or more",
        ),
        ({}, (1,), "cluster-databases 1 is too few, database 1 holds keys"),
        ({}, (0,), None),
        ({}, (), None),
    ],
)
def test_fewer_databases_than_hold_keys_are_refused(settings, filled, words):
    [wish, _other] = wishes(settings)
    live = {**DEFAULTS, **wish.settings, "cluster-databases": "16", "cluster-enabled": "yes"}
    found = steps.Found(wish.text, folder=True, server=steps.Running("9.1", live, filled=filled))
    with pytest.raises(Refusal, match=words) if words else contextlib.nullcontext():
        steps.change(wish, found)
    steps.change(wish, replace(found, server=steps.Running("9.1", {**live, "cluster-enabled": "no"}, filled=filled)))


@pytest.mark.parametrize(
    ("config", "size", "words"),
    [
        (CONFIG.replace("dir /data/{port}\n", ""), "64mb", "config: directive dir is missing. Add it"),
        (CONFIG.replace("/data/{port}", "/data"), "64mb", "several instances have dir /data"),
        (CONFIG, "64 elephants", "valkey_instances, port 7001, maxmemory: '64 elephants' is not a size"),
    ],
)
def test_what_cannot_be_is_refused(config, size, words):
    options = [{"port": port, "maxmemory": size, "settings": {}} for port in PORTS]
    with pytest.raises(Refusal, match=words):
        steps.templates(
            options, config, {}, ("replication", "x"), memory=1 << 30, fraction=0.6, folder="/etc", version="9.1"
        )


def test_a_set_value_that_reads_otherwise_is_refused():
    [wish, _other] = wishes({"timeout": "1"})
    steps.check_set(wish, ["timeout"], {"timeout": "1"})
    with pytest.raises(Refusal, match="timeout is '0' after CONFIG SET to '1'"):
        steps.check_set(wish, ["timeout"], {"timeout": "0"})


def test_diffs_hold_no_secret_and_name_users_whose_password_changed():
    old, new = (f"user a on #{digit * 64} ~*\n" for digit in "12")
    shown = steps.file_diff(steps.Step(steps.WRITE, 7001, ACL, old, new))
    assert shown["after"] == shown["before"] + "# new passwords: a\n"
    assert "1" * 64 not in str(shown) and "2" * 64 not in str(shown)
    [wish, _other] = wishes({})
    assert "staple" not in str(steps.file_diff(steps.Step(steps.WRITE, 7001, wish.path, "", wish.text)))
    live = steps.live_diff(wish, {"primaryauth": "staple"}, {"primaryauth": "old-staple"}, [KEY])
    assert "staple" not in str(live) and f"# loaded again: {KEY}" in live["after"]


def test_the_oldest_running_version_says_what_users_may_do():
    acl = "user a +get{since 9.0: +new}"
    assert steps.acl_for(acl, ["9.1", "8.1"], "9.1") == "user a +get"
    assert steps.acl_for(acl, [], "9.1") == "user a +get +new"


def test_settings_of_the_text_are_those_of_the_wish():
    for wish in wishes({"timeout": "1"}):
        assert parse_config(wish.text) == wish.settings
        assert wish.settings["primaryauth"] == "staple"
