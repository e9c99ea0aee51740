# SPDX-License-Identifier: Apache-2.0
"""The action `program`: which modules it runs on the host, in which order, with what."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.holdfast.persistence.plugins.action import program
from ansible_collections.holdfast.persistence.plugins.action.program import ActionModule

FOLLOW = {"name": "patroni-follow", "user": "postgres", "settings": {"port": 5432}}
NOTHING = {"changed": False, "programs": [], "replaced": [], "remains": [], "called": []}
DEFAULTS = {
    "state": "present",
    "settings": None,
    "settings_file": None,
    "user": "root",
    "sensitive": False,
    "files": [],
    "command": None,
}


@pytest.fixture(name="run")
def _run(monkeypatch):
    """Run the action on programs; answers are what modules return in place of nothing to do, by name."""

    def run(*programs, look=False, check_mode=False, **answers):
        calls = []

        def execute(_self, module_name, module_args, task_vars):
            name = module_name.removeprefix("holdfast.persistence.")
            calls.append((name, module_args))
            usual = {
                "program_folders": NOTHING,
                "files": {"changed_paths": []},
                "unit": {"actions": []},
                "teardown": {},
            }
            return {"changed": False, **usual[name], **answers.get(name, {})}

        options = {"programs": [{**DEFAULTS, **wish} for wish in programs], "look": look}
        monkeypatch.setattr(program.ActionBase, "run", lambda _self, tmp, task_vars: {})
        monkeypatch.setattr(ActionModule, "_execute_module", execute)
        monkeypatch.setattr(ActionModule, "validate_argument_spec", lambda _self, spec: (None, options))
        action = ActionModule.__new__(ActionModule)
        action._task = SimpleNamespace(check_mode=check_mode)
        return action.run(), calls

    return run


def test_a_service_gets_its_folder_then_its_files_then_runs(run):
    result, calls = run(FOLLOW)
    assert [name for name, _arguments in calls] == ["program_folders", "files", "unit"]
    (folder,) = calls[0][1]["programs"]
    assert folder["name"] == "patroni-follow" and {"__main__.py", "patroni_follow.py", "VERSION"} <= set(
        folder["files"]
    )
    settings, unit = calls[1][1]["files"]
    assert (settings["path"], settings["owner"], settings["mode"]) == (
        "/etc/holdfast/patroni-follow.json",
        "postgres",
        "0600",
    )
    assert json.loads(settings["content"]) == {"port": 5432}
    assert unit["path"] == "/etc/systemd/system/patroni-follow.service"
    assert calls[2][1] == {
        "name": "patroni-follow.service",
        "enabled": True,
        "state": "started",
        "restart_on": [settings["path"], unit["path"], "/usr/local/lib/holdfast/programs/patroni-follow/VERSION"],
        "starts": [],
        "pending": [],
    }
    assert result["changed"] is False


def test_a_timer_runs_its_service_and_is_not_restarted_by_settings(run):
    _result, calls = run({"name": "valkey-respread", "settings": {}})
    unit = calls[-1][1]
    assert (unit["name"], unit["starts"]) == ("valkey-respread.timer", ["valkey-respread.service"])
    assert unit["restart_on"] == [f"/etc/systemd/system/valkey-respread.{kind}" for kind in ("timer", "service")]


def test_check_mode_announces_the_restart_for_new_code_alone(run):
    _result, calls = run(FOLLOW, {"name": "patroni-guard"}, program_folders={**NOTHING, "replaced": ["patroni-follow"]})
    units = [arguments for name, arguments in calls if name == "unit"]
    assert [unit["name"] for unit in units] == ["patroni-follow.service", "patroni-guard.service"]
    assert units[0]["pending"] == units[0]["restart_on"] and units[1]["pending"] == []


def test_what_is_not_wished_is_stopped_before_its_folder_goes_and_has_no_code_sent(run):
    result, calls = run({**FOLLOW, "state": "absent"}, teardown={"changed": True})
    assert [name for name, _arguments in calls] == ["teardown", "program_folders"]
    assert calls[0][1] == {
        "units": ["patroni-follow.service"],
        "paths": ["/etc/holdfast/patroni-follow.json", "/etc/systemd/system/patroni-follow.service"],
    }
    assert calls[1][1] == {"programs": [{"name": "patroni-follow", "files": {}, "commands": []}]}
    assert result["changed"] is True


def test_remains_go_last(run):
    _result, calls = run(FOLLOW, program_folders={**NOTHING, "remains": ["/usr/local/lib/holdfast/patroni"]})
    assert calls[-1] == ("teardown", {"units": [], "paths": ["/usr/local/lib/holdfast/patroni"]})


def test_a_command_is_a_file_that_is_no_remains(run):
    path = "/usr/local/lib/holdfast/pgbackrest-replica"
    _result, calls = run({"name": "pgbackrest-replica", "command": path})
    assert [name for name, _arguments in calls] == ["program_folders", "files"]
    assert calls[0][1]["programs"][0]["commands"] == [path]
    assert [(file["path"], file["mode"]) for file in calls[1][1]["files"]] == [(path, "0755")]


def test_a_look_asks_once_and_does_not_fail(run):
    found = {**NOTHING, "programs": [{"name": "patroni-follow", "state": "missing"}]}
    result, calls = run(FOLLOW, look=True, check_mode=True, program_folders=found)
    assert [name for name, _arguments in calls] == ["program_folders"]
    assert result == {"changed": False, "programs": found["programs"], "errors": []}
    result, _calls = run(FOLLOW, look=True, check_mode=True, program_folders={"failed": True, "msg": "no space left"})
    assert result == {"changed": False, "programs": [], "errors": ["no space left"]}


def test_a_look_never_changes_a_host(run):
    with pytest.raises(AnsibleActionFail, match="check_mode: true"):
        run(FOLLOW, look=True)


def test_a_failure_is_the_modules_own(run):
    result, _calls = run(FOLLOW, files={"failed": True, "msg": "disk full"})
    assert (result["failed"], result["msg"]) == (True, "disk full")


def test_a_program_that_no_role_has_is_refused_before_anything_changes(run):
    with pytest.raises(
        AnsibleActionFail, match=r"Program patroni-folow has to have its source in one role.*Nothing was changed"
    ):
        run({"name": "patroni-folow"})
