# SPDX-License-Identifier: Apache-2.0
"""The decisions of the module unit."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.systemd.unit import (
    FileState,
    Plan,
    Record,
    Status,
    Wish,
    differing,
    first_by_name,
    has_unloaded_files,
    make_plan,
    make_record,
    parse_status,
    unit_names,
)
from ansible_collections.holdfast.persistence.plugins.modules import unit
from hypothesis import given
from hypothesis import strategies as st

CONFIG, PEM = "/etc/x.conf", "/etc/x.pem"
STARTED = 1000.0


def status(**changes):
    values = {
        "load_state": "loaded",
        "active_state": "active",
        "sub_state": "running",
        "unit_file_state": "enabled",
        "unit_type": "notify",
        "invocation_id": "i1",
        "started_at": STARTED,
        "can_reload": True,
    }
    return Status(**(values | changes))


def wish(**changes):
    return Wish(**({"name": "x.service", "enabled": True, "restart_on": (CONFIG,), "reload_on": (PEM,)} | changes))


def on_disk(config="c1", pem="p1", at=STARTED - 100):
    return {CONFIG: FileState(config, at), PEM: FileState(pem, at)}


LOADED = Record("i1", {CONFIG: "c1", PEM: "p1"})

UNIT_FILE = "/usr/lib/systemd/system/x.service"

SHOW = """\
Type=notify
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
InactiveExitTimestampMonotonic=5000000
CanReload=yes
NeedDaemonReload=no
ConditionResult=yes
ConditionTimestampMonotonic=4999000
InvocationID=abc
LoadError=
FragmentPath=/usr/lib/systemd/system/x.service
DropInPaths=/etc/systemd/system/x.service.d/a.conf /etc/systemd/system/x.service.d/b.conf
"""


def test_status_is_read_from_systemctl_show():
    read = parse_status(SHOW, realtime=2000.0, monotonic=105.0)
    assert read == Status(
        "loaded",
        "active",
        "running",
        "enabled",
        "notify",
        "abc",
        1900.0,
        can_reload=True,
        fragment=UNIT_FILE,
        drop_ins=("/etc/systemd/system/x.service.d/a.conf", "/etc/systemd/system/x.service.d/b.conf"),
    )


def test_status_of_a_unit_that_never_ran_has_no_start_and_no_failed_condition():
    text = "ActiveState=inactive\nConditionResult=no\nConditionTimestampMonotonic=0\nInactiveExitTimestampMonotonic=0\n"
    read = parse_status(text, 2000.0, 105.0)
    assert read.started_at is None
    assert not read.condition_failed


def test_condition_that_forbade_the_last_start_is_seen():
    assert parse_status("ConditionResult=no\nConditionTimestampMonotonic=7\n", 1.0, 1.0).condition_failed


def test_first_start_enables_and_starts():
    plan = make_plan(wish(), status(active_state="inactive", unit_file_state="disabled"), on_disk(), None)
    assert plan.actions == ("enable", "start")
    assert plan.is_change


def test_running_with_the_files_on_disk_needs_nothing():
    assert make_plan(wish(), status(), on_disk(at=STARTED + 5), LOADED).actions == ()


def test_without_a_record_files_older_than_the_start_count_as_loaded():
    assert make_plan(wish(), status(), on_disk(), None).actions == ()


def test_without_a_record_a_file_changed_after_the_start_restarts():
    plan = make_plan(wish(), status(), on_disk(at=STARTED + 1), None)
    assert plan.actions == ("restart",)


def test_record_of_another_invocation_is_not_believed():
    assert make_plan(wish(), status(invocation_id="i2"), on_disk(), LOADED).actions == ()
    assert make_plan(wish(), status(invocation_id="i2"), on_disk(at=STARTED + 1), LOADED).actions == ("restart",)


def test_changed_restart_file_restarts_even_if_its_time_is_old():
    plan = make_plan(wish(), status(), on_disk(config="c2"), LOADED)
    assert plan.actions == ("restart",)
    assert plan.reasons == (f"{CONFIG} is not as the running unit loaded it",)


def test_only_a_reload_file_changed_reloads():
    assert make_plan(wish(), status(), on_disk(pem="p2"), LOADED).actions == ("reload",)


def test_both_changed_restarts_once_and_tells_both():
    plan = make_plan(wish(), status(), on_disk("c2", "p2"), LOADED)
    assert plan.actions == ("restart",)
    assert len(plan.reasons) == 2


def test_unit_without_reload_is_restarted():
    assert make_plan(wish(), status(can_reload=False), on_disk(pem="p2"), LOADED).actions == ("restart",)


def test_removed_file_is_a_change_only_if_it_was_loaded():
    gone = {PEM: FileState("p1", STARTED - 1)}
    assert make_plan(wish(), status(), gone, LOADED).actions == ("restart",)
    assert make_plan(wish(), status(), gone, None).actions == ()


def test_file_that_is_new_in_the_list_follows_the_clock():
    record = Record("i1", {CONFIG: "c1"})
    assert make_plan(wish(), status(), on_disk(), record).actions == ()
    assert make_plan(wish(), status(), on_disk(at=STARTED + 1), record).actions == ("reload",)


def test_pending_files_announce_in_check_mode_what_would_really_be_done():
    def actions(*pending, **changes):
        return make_plan(wish(pending=pending), status(**changes), on_disk(), LOADED).actions

    assert actions(CONFIG) == actions(PEM, CONFIG) == ("restart",)
    assert actions(PEM) == ("reload",)
    assert actions("/etc/of-another-unit.conf") == ()
    assert actions(CONFIG, active_state="inactive") == ("start",)
    assert make_plan(wish(pending=(PEM,)), status(), on_disk(), LOADED).reasons == (f"{PEM} would change",)


class Recorder:
    """Stands for systemd: keeps what it was asked to do, and says that the unit runs."""

    def __init__(self):
        self.asked = []

    def do(self, action, no_block):
        self.asked.append(action)

    def take_over(self, command):
        self.asked.append(command)

    def show(self):
        return status()


def test_a_new_process_takes_over_from_one_that_runs_in_place_of_a_restart():
    systemd, plan = Recorder(), Plan(("daemon_reload", "restart"), ())
    unit.carry_out(systemd, plan, status(), no_block=False, restart_by=["take", "over"])
    assert systemd.asked == ["daemon_reload", ["take", "over"]]


def test_one_that_does_not_run_is_restarted_as_any_other():
    systemd, plan = Recorder(), Plan(("restart",), ())
    unit.carry_out(systemd, plan, status(active_state="activating"), no_block=False, restart_by=["take", "over"])
    assert systemd.asked == ["restart"]


def test_failed_unit_is_reset_before_its_start():
    plan = make_plan(wish(), status(active_state="failed"), on_disk(), None)
    assert plan.actions == ("reset_failed", "start")


def test_start_under_way_is_waited_for_and_is_no_change():
    plan = make_plan(wish(), status(active_state="activating"), on_disk(), LOADED)
    assert plan.actions == ("wait",)
    assert not plan.is_change


def test_crash_loop_is_restarted_when_its_file_was_corrected():
    plan = make_plan(wish(), status(active_state="activating", sub_state="auto-restart"), on_disk("c2"), LOADED)
    assert plan.actions == ("reset_failed", "restart")


def test_changed_drop_in_reloads_the_manager_first():
    plan = make_plan(wish(), status(need_daemon_reload=True), on_disk("c2"), LOADED)
    assert plan.actions == ("daemon_reload", "restart")


@pytest.mark.parametrize(
    ("fragments", "drop_ins", "unloaded"),
    [
        ([UNIT_FILE], ["/etc/x.d/a.conf"], False),
        ([UNIT_FILE], [], False),
        ([UNIT_FILE], ["/etc/x.d/a.conf", "/usr/x.d/a.conf"], False),
        ([UNIT_FILE], ["/etc/x.d/a.conf", "/etc/x.d/new.conf"], True),
        (["/etc/systemd/system/x.service", UNIT_FILE], ["/etc/x.d/a.conf"], True),
    ],
)
def test_files_that_systemd_has_not_loaded_are_seen(fragments, drop_ins, unloaded):
    loaded = status(fragment=UNIT_FILE, drop_ins=("/etc/x.d/a.conf",))
    assert has_unloaded_files(loaded, fragments, drop_ins) is unloaded


def test_unit_that_is_not_from_a_file_needs_no_file():
    assert not has_unloaded_files(status(fragment=""), [UNIT_FILE], ["/etc/x.d/a.conf"])


def test_instances_also_go_by_their_template():
    assert unit_names("valkey-server@7001.service") == ("valkey-server@7001.service", "valkey-server@.service")
    assert unit_names("etcd.service") == ("etcd.service",)
    assert first_by_name(["/etc/a.conf", "/run/a.conf", "/run/b.conf"]) == ["/etc/a.conf", "/run/b.conf"]


def test_stopped_and_disabled():
    off = wish(state="stopped", enabled=False)
    assert make_plan(off, status(), on_disk("c2"), LOADED).actions == ("disable", "stop")
    assert make_plan(off, status(active_state="inactive", unit_file_state="disabled"), {}, None).actions == ()
    assert make_plan(off, status(active_state="failed", unit_file_state="static"), {}, None).actions == ()


def test_enabled_is_left_alone_where_not_asked():
    assert make_plan(wish(enabled=None), status(unit_file_state="disabled"), on_disk(), LOADED).actions == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"load_state": "masked"}, "masked"),
        ({"load_state": "bad-setting", "load_error": "org.x Bad"}, "org.x Bad"),
        ({"unit_file_state": "static"}, "cannot be enabled"),
    ],
)
def test_impossible_wishes_are_refused(changes, words):
    with pytest.raises(Refusal, match=words):
        make_plan(wish(), status(**changes), on_disk(), None)


def test_masked_unit_may_stay_stopped():
    off = wish(state="stopped", enabled=False)
    assert make_plan(off, status(load_state="masked", active_state="inactive", unit_file_state="masked"), {}, None) == (
        make_plan(off, status(active_state="inactive", unit_file_state="disabled"), {}, None)
    )


def test_record_needs_an_invocation():
    assert make_record(wish(), status(active_state="inactive"), on_disk()) is None
    assert make_record(wish(), status(invocation_id=""), on_disk()) is None
    assert make_record(wish(), status(), on_disk()) == LOADED


def test_record_keeps_what_other_tasks_know_of_the_same_invocation():
    only_config = wish(reload_on=())
    assert make_record(only_config, status(), on_disk("c2"), LOADED) == Record("i1", {CONFIG: "c2", PEM: "p1"})
    assert make_record(only_config, status(invocation_id="i2"), on_disk(), LOADED) == Record("i2", {CONFIG: "c1"})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"invocation_id": 1, "digests": {}}', '{"invocation_id": "a"}'])
def test_damaged_record_is_no_record(text):
    assert Record.from_json(text) is None


digests = st.dictionaries(st.sampled_from([CONFIG, PEM]), st.sampled_from(["", "a", "b"]))


@given(st.text(max_size=8), st.dictionaries(st.text(), st.text()))
def test_record_survives_its_file(invocation, mapping):
    record = Record(invocation, mapping)
    assert Record.from_json(record.to_json()) == record


@given(digests, digests, st.floats(0, 2000), st.sampled_from(["active", "activating", "inactive", "failed"]))
def test_after_the_plan_was_carried_out_nothing_is_left_to_do(found, loaded, changed_at, active):
    """Whatever was found: once the record is written, the second run has no action."""
    files = {path: FileState(digest, changed_at if digest else None) for path, digest in found.items()}
    first = make_plan(wish(), status(active_state=active), files, Record("i1", loaded))
    started = {"start", "restart"} & set(first.actions)
    after = status(invocation_id="i2" if started else "i1")
    assert make_plan(wish(), after, files, make_record(wish(), after, files)).actions == ()


@given(digests, st.floats(0, 2000))
def test_a_path_is_never_named_that_was_not_asked(found, changed_at):
    files = {path: FileState(digest, changed_at) for path, digest in found.items()}
    assert set(differing((PEM,), files, status(), None)) <= {PEM}
