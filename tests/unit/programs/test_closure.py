# SPDX-License-Identifier: Apache-2.0
"""Which code of the collection a program needs, found in made-up collections."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.plugin_utils.programs.closure import (
    Closure,
    closure_of,
    imports_of,
)
from hypothesis import given
from hypothesis import strategies as st

PROGRAM = "roles/example/files/example.py"
HOME = "ansible_collections.holdfast.persistence.plugins.module_utils"


def closure(program: str, **modules: str) -> Closure:
    """Return the closure of a program in a collection of these modules; `area__name` stands in a folder."""
    files = {f"plugins/module_utils/{name.replace('__', '/', 1)}.py": text for name, text in modules.items()}
    return closure_of(PROGRAM, {**files, PROGRAM: program}.get)


def names(found: Closure) -> list[str]:
    return [path.removeprefix("plugins/module_utils/") for path in found.files]


def test_what_is_imported_imports_too() -> None:
    found = closure(
        f"import json\nfrom {HOME}.area.one import name",
        area__one=f"import socket\nfrom {HOME}.area import two",
        area__two=f"import {HOME}.area.three",
        area__three="",
        area__four="import xml",
    )
    assert names(found) == ["area/one.py", "area/three.py", "area/two.py"]
    assert found.outside == {"json", "socket"}


@pytest.mark.parametrize(
    "text",
    [
        f"def late():\n    from {HOME}.area import one",
        f"try:\n    pass\nexcept OSError:\n    import {HOME}.area.one",
        f"try:\n    pass\nfinally:\n    import {HOME}.area.one as other",
        f"if x:\n    pass\nelse:\n    from {HOME}.area.one import name",
        f"match x:\n    case 1:\n        from {HOME}.area.one import name",
        f"class Late:\n    with x:\n        for y in z:\n            from {HOME}.area.one import (name, other)",
    ],
)
def test_an_import_counts_wherever_it_stands(text: str) -> None:
    assert names(closure(text, area__one="")) == ["area/one.py"]


def test_what_only_a_type_checker_reads_does_not_count() -> None:
    text = f"if TYPE_CHECKING:\n    from {HOME}.area import one\nelse:\n    from {HOME}.area import two"
    assert names(closure(text, area__one="", area__two="")) == ["area/two.py"]


def test_a_package_comes_with_what_its_own_file_imports() -> None:
    files = {
        PROGRAM: f"from {HOME}.area import name",
        "plugins/module_utils/area/__init__.py": "from .one import name",
        "plugins/module_utils/area/one.py": "from ..other import two",
        "plugins/module_utils/other/two.py": "",
    }
    assert list(closure_of(PROGRAM, files.get).files) == sorted(set(files) - {PROGRAM})


def test_a_name_of_a_module_is_no_module() -> None:
    found = closure(f"from {HOME}.area.one import two", area__one="two = 2")
    assert names(found) == ["area/one.py"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"from {HOME}.area import nothing", r"imports .*\.area\.nothing, which the collection does not have"),
        ("from ansible_collections.holdfast.persistence.plugins.modules import files", "which is no code for hosts"),
        ("from ansible_collections.community.postgresql.plugins.module_utils import x", "which is no code for hosts"),
        ("import importlib\nimportlib.import_module(name)", "imports by a name that only a run knows"),
        ("from ansible.module_utils.basic import AnsibleModule", "imports Ansible, which hosts do not have"),
    ],
)
def test_what_a_host_cannot_have_is_refused(text: str, said: str) -> None:
    with pytest.raises(Refusal, match=said) as refused:
        closure(text, area__one="")
    assert str(refused.value).startswith(f"{PROGRAM} ")
    assert str(refused.value).endswith("Nothing was changed.")


def test_who_brings_ansible_is_named() -> None:
    with pytest.raises(Refusal, match=r"^plugins/module_utils/area/two\.py imports Ansible"):
        closure(f"from {HOME}.area import one", area__one=f"import {HOME}.area.two", area__two="import ansible.errors")


@given(st.lists(st.sets(st.integers(0, 7)), min_size=8, max_size=8), st.sets(st.integers(0, 7)))
def test_it_is_what_can_be_reached_and_no_more(graph: list[set[int]], first: set[int]) -> None:
    def text(targets: set[int]) -> str:
        forms = ("from {0}.area import m{1}", "import {0}.area.m{1}", "from {0}.area.m{1} import x")
        return "\n".join(forms[target % 3].format(HOME, target) for target in targets)

    reached: set[int] = set()
    waiting = list(first)
    while waiting:
        number = waiting.pop()
        if number not in reached:
            reached.add(number)
            waiting += graph[number]
    found = closure(text(first), **{f"area__m{number}": text(targets) for number, targets in enumerate(graph)})
    assert names(found) == [f"area/m{number}.py" for number in sorted(reached)]


def test_imports_are_told_in_their_order() -> None:
    found = imports_of(PROGRAM, "import b\nfrom a import c as d\nif x:\n    import e\nimport f")
    assert [(wanted.module, wanted.name) for wanted in found] == [("b", ""), ("a", "c"), ("e", ""), ("f", "")]
