# SPDX-License-Identifier: Apache-2.0
"""Every file says its licence, in a line of its own or by REUSE.toml, and the line changes nothing that a template renders."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

import jinja2
import pytest

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted(
    path for folder in ("roles", "molecule") for path in (ROOT / folder).rglob("*.j2") if path.name != "policy-rc.d.j2"
)
BODIES = {
    "a.py": ('"""Text."""\n', '# SPDX-License-Identifier: Apache-2.0\n"""Text."""\n'),
    "plugins/a.py": (
        "#!/usr/bin/python\n# Copyright: us\n# Apache License 2.0\n# GNU General Public License\n\nx = 1\n",
        "#!/usr/bin/python\n# Copyright: us\n# Apache License 2.0\n# GNU General Public License\n"
        "# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later\n\nx = 1\n",
    ),
    "a.yml": ("---\na: 1\n", "---\n# SPDX-License-Identifier: Apache-2.0\na: 1\n"),
    "tool": ("#!/bin/sh\ntrue\n", "#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\ntrue\n"),
    "a.sh.j2": ("#!/bin/sh\n{{ x }}\n", "#!/bin/sh\n{# SPDX-License-Identifier: Apache-2.0 -#}\n{{ x }}\n"),
    "empty.py": ("", ""),
}


@pytest.fixture(scope="module")
def spdx() -> ModuleType:
    specification = importlib.util.spec_from_file_location("spdx", ROOT / "tools/spdx.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_every_file_has_the_line_of_its_licence(spdx: ModuleType) -> None:
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in spdx.files()}
    assert len(texts) > 500
    lacking = [path for path, text in texts.items() if text and f"{spdx.MARK} {spdx.licence(path)}" not in text[:2000]]
    assert not lacking, "python tools/spdx.py writes it"


@pytest.mark.parametrize("path", BODIES)
def test_the_line_goes_after_what_must_be_first_and_only_once(path: str, spdx: ModuleType) -> None:
    before, after = BODIES[path]
    assert spdx.with_line(path, before) == after
    assert spdx.with_line(path, after) == after


@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_render_the_same_with_the_line(path: Path, trim: bool, spdx: ModuleType) -> None:
    text = path.read_text(encoding="utf-8")
    bare = "".join(line for line in text.splitlines(keepends=True) if spdx.MARK not in line)
    assert bare != text
    engine = jinja2.Environment(trim_blocks=trim, extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"])
    assert pieces(engine, text) == pieces(engine, bare)


def pieces(engine: jinja2.Environment, text: str) -> str:
    """Return what a template is to Jinja, text beside text as one."""
    found = ""
    for _line, kind, value in engine.lex(text):
        if not kind.startswith("comment"):
            found += value if kind == "data" else f"<{kind} {value}>"
    return found


def test_licences_that_are_named_are_here() -> None:
    """As the specification of REUSE has it: a file for each licence, of its identifier's name."""
    entries = tomllib.loads((ROOT / "REUSE.toml").read_text(encoding="utf-8"))["annotations"]
    named = {name for entry in entries for name in entry["SPDX-License-Identifier"].split(" OR ")}
    assert {f"{name}.txt" for name in named} == {path.name for path in (ROOT / "LICENSES").iterdir()}
    assert (ROOT / "LICENSES/Apache-2.0.txt").read_bytes() == (ROOT / "LICENSE").read_bytes()
