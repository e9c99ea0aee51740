# SPDX-License-Identifier: Apache-2.0
"""The action `ask`: one candidate after the other, until one answers."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible_collections.holdfast.persistence.plugins.action import ask
from ansible_collections.holdfast.persistence.plugins.action.ask import ActionModule, reason, rows


@pytest.fixture(name="run")
def _run(monkeypatch):
    """Run the action with options; answers are what each call of the module gives, or an exception that it raises."""

    def run(options, *answers):
        calls, left = [], list(answers)

        def execute(_self, module_name, module_args, task_vars):
            calls.append((module_name, module_args))
            answer = left.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(ask.ActionBase, "run", lambda _self, tmp, task_vars: {})
        monkeypatch.setattr(ActionModule, "_execute_module", execute)
        monkeypatch.setattr(
            ActionModule,
            "validate_argument_spec",
            lambda _self, spec: (None, {"options": {}, "candidates": {}, **options}),
        )
        return ActionModule.__new__(ActionModule).run(), calls

    return run


def test_the_first_that_answers_is_the_last_asked(run):
    options = {"module": "m", "options": {"timeout": 5}, "candidates": {"host": ["a", "b", "c"], "port": [1, 2, 3]}}
    answer = {"value": 7, "changed": False, "invocation": {"module_args": {}}, "_ansible_parsed": True}
    result, calls = run(options, {"failed": True, "msg": "refused"}, answer)
    assert calls == [
        ("m", {"timeout": 5, "host": "a", "port": 1}),
        ("m", {"timeout": 5, "host": "b", "port": 2}),
    ]
    assert result == {
        "changed": False,
        "answered_by": "b:2",
        "result": {"value": 7, "changed": False},
        "errors": ["a:1: refused"],
    }


def test_nobody_answers(run):
    result, calls = run({"module": "m", "candidates": {"url": ["x", "y"]}}, *[{"failed": True, "msg": "no"}] * 2)
    assert len(calls) == 2
    assert (result["result"], result["answered_by"], result["errors"]) == ({}, "", ["x: no", "y: no"])
    assert "failed" not in result


def test_a_host_that_cannot_be_reached_is_an_error_among_others(run):
    result, _calls = run({"module": "m"}, AnsibleConnectionFailure("Connection timed out"))
    assert (result["result"], result["errors"]) == ({}, ["Connection timed out"])


@pytest.mark.parametrize(
    ("name", "answer", "text"),
    [
        ("x", {"msg": "refused"}, "x: refused"),
        ("", {"msg": "refused\n  twice"}, "refused twice"),
        ("x:1", {"msg": "x:1: refused"}, "x:1: refused"),
        (
            "",
            {"msg": "deserialization failed", "module_stderr": "first\nContainer is not running\n"},
            "Container is not running",
        ),
        ("", {"msg": "refused", "module_stderr": ""}, "refused"),
        ("", {}, "failed"),
    ],
)
def test_reasons_are_one_line(name, answer, text):
    assert reason(name, answer) == text


def test_no_candidates_are_one_attempt():
    assert rows({}) == [{}]


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(AnsibleActionFail, match="host: 2, port: 1"):
        rows({"host": ["a", "b"], "port": [1]})
