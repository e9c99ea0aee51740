# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Action plugin: show a cluster, or what is wrong with it, to a person or a program."""

from __future__ import annotations

import datetime
import json
import os

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.holdfast.persistence.plugins.module_utils.findings import FAIL_ON, at_least, to_dict, worst
from ansible_collections.holdfast.persistence.plugins.module_utils.status import model, render, verdict
from ansible_collections.holdfast.persistence.plugins.module_utils.tls.authority import digests

DISPLAY = Display()
ANSWERS = ("host", "haproxy", "pgbouncer", *model.ENGINES)
MORE_ANSWERS = ("asked", "served", "backup", "programs")
CHECKS = {"postgresql": "patroni", "valkey": "valkey"}


class ActionModule(ActionBase):
    """Prints through Ansible's display, past the callback, so that lines stay lines; see the module `screen`."""

    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _spec, options = self.validate_argument_spec(argument_spec())
        seen = model.build(
            cluster=options["cluster"],
            time=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            timing=options["timing"],
            vip=options["vip"],
            addresses=options["addresses"],
            engines=options["engines"],
            answers=options["answers"],
            declared=options["declared"],
            authorities=read_authorities(options["authority"]),
        )
        if options["view"] == "status":
            show(options["format"], seen, render.render(seen))
            return {**result, "changed": False}
        findings = judge(seen, options)
        summary = {"findings": [to_dict(finding) for finding in findings], "worst": worst(findings) or ""}
        show(options["format"], {"cluster": options["cluster"], **summary}, verdict.text(options["cluster"], findings))
        grave = at_least(findings, options["fail_on"])
        if grave:
            message = f"{options['cluster']}: {verdict.headline(grave)}; each is listed above with its remedy"
            return {**result, "changed": False, "failed": True, "msg": message}
        return {**result, "changed": False}


def argument_spec():
    """Return the argument spec."""
    return {
        "view": {"type": "str", "choices": ["status", "check"], "default": "status"},
        "format": {"type": "str", "choices": ["text", "json"], "default": "text"},
        "cluster": {"type": "str", "required": True},
        "timing": {"type": "str", "required": True},
        "vip": {"type": "str", "default": ""},
        "addresses": {"type": "dict", "required": True},
        "declared": {"type": "dict", "default": {}},
        "authority": {"type": "path", "default": ""},
        "engines": {"type": "list", "elements": "str", "choices": list(model.ENGINES), "required": True},
        "answers": {
            "type": "dict",
            "required": True,
            "options": {
                **{kind: {"type": "list", "elements": "dict", "required": True} for kind in ANSWERS},
                **{kind: {"type": "list", "elements": "dict", "default": []} for kind in MORE_ANSWERS},
            },
        },
        "checks": {
            "type": "dict",
            "default": {},
            "options": {engine: {"type": "list", "elements": "dict", "default": []} for engine in CHECKS},
        },
        "certificate_days_warning": {"type": "int", "default": 30},
        "certificate_days_critical": {"type": "int", "default": 7},
        "fail_on": {"type": "str", "choices": list(FAIL_ON), "default": "critical"},
    }


def read_authorities(path):
    """Return the digests of the authorities in the controller's file, none where there is no file."""
    if not path or not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as stream:
        return digests(stream.read())


def judge(seen, options):
    """Return the findings of the model and of the engines' checks."""
    checks = {
        name: next(filter(None, (options["checks"].get(name) or [])), {}) if engine in options["engines"] else None
        for name, engine in CHECKS.items()
    }
    return verdict.judge(seen, checks, (options["certificate_days_warning"], options["certificate_days_critical"]))


def show(form, data, lines):
    """Print data as JSON or the lines as they are."""
    DISPLAY.display(json.dumps(data, indent=2) if form == "json" else "\n".join(lines))
