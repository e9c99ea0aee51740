# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Which of the collection's code a program needs: what it imports, and what that imports. No I/O.

The code is parsed, never run: https://docs.python.org/3/library/ast.html .
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

# How the code names the collection; where that name's files stand in it.
NAMESPACE = ("ansible_collections", "holdfast", "persistence")
SHARED = "plugins/module_utils/"
PACKAGE = "__init__.py"
# Names by which code imports what stands in no import statement.
BY_NAME = re.compile(r"\bimport_module\(|\b__import__\(")


def refusal(path: str, found: str, remedy: str) -> Refusal:
    """Return that a program imports what it can't have on a host. Parameters: path of the file; what is wrong; remedy."""
    return Refusal(f"{path} {found}", f"{remedy}. Nothing was changed.")


@dataclass(frozen=True)
class Closure:
    """files: the collection's code by its path in the collection; outside: top names of all other modules that are imported."""

    files: dict[str, str]
    outside: frozenset[str]


@dataclass(frozen=True)
class Import:
    """One name that code imports: module, and the name out of it, empty for the module itself."""

    module: str
    name: str = ""


def imports_of(path: str, text: str) -> list[Import]:
    """Return what code imports when it runs, wherever the statement stands; not what only a type checker reads.

    Raises Refusal for an import by a name that is known at run time only.
    """
    if BY_NAME.search(text):
        raise refusal(path, "imports by a name that only a run knows", "Write an import statement")
    found = []
    waiting: list[ast.stmt] = list(reversed(ast.parse(text, path).body))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found += [Import(alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [Import(_absolute(node, path), alias.name) for alias in node.names]
        else:
            waiting += reversed(list(_statements_in(node)))
    return found


def _statements_in(node: ast.stmt) -> Iterator[ast.stmt]:
    """The statements inside one, without those under `if TYPE_CHECKING`."""
    checking = isinstance(node, ast.If) and _last_name(node.test) == "TYPE_CHECKING"
    yield from () if checking else getattr(node, "body", ())
    for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        yield from part.body
    yield from getattr(node, "orelse", ())
    yield from getattr(node, "finalbody", ())


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _absolute(node: ast.ImportFrom, path: str) -> str:
    """The module of `from MODULE import ...`, also where it is relative to the file's own package."""
    if not node.level:
        return node.module or ""
    package = [*NAMESPACE, *path.split("/")[:-1]]
    return ".".join([*package[: len(package) + 1 - node.level], *filter(None, [node.module])])


def closure_of(path: str, read: Callable[[str], str | None]) -> Closure:
    """Return the closure of a program, without its own file.

    Parameters: path, of the program's file in the collection; read, returns the content of a file of the collection by its path,
    None where there is none. Raises Refusal.
    """
    text = read(path)
    if text is None:
        raise refusal(path, "is not there", "Correct the program's name, or add the file")
    files: dict[str, str] = {}
    outside: set[str] = set()
    waiting = [(path, text)]
    while waiting:
        source, content = waiting.pop()
        for wanted in imports_of(source, content):
            top = wanted.module.partition(".")[0]
            if top != NAMESPACE[0]:
                outside.add(top)
                continue
            for needed in _files_of(wanted, source, read):
                if needed not in files:
                    files[needed] = read(needed) or ""
                    waiting.append((needed, files[needed]))
    if "ansible" in outside:
        users = [each for each, content in {**files, path: text}.items() if _uses_ansible(each, content)]
        raise refusal(
            ", ".join(users),
            f"imports Ansible, which hosts do not have, for {path}",
            "Move what the program needs to a file of its own",
        )
    return Closure(dict(sorted(files.items())), frozenset(outside))


def _uses_ansible(path: str, text: str) -> bool:
    return any(wanted.module.partition(".")[0] == "ansible" for wanted in imports_of(path, text))


def _files_of(wanted: Import, source: str, read: Callable[[str], str | None]) -> list[str]:
    """The files that an import loads: the module or package, what it is in, and the module that the name may be."""
    parts = tuple(wanted.module.split("."))
    inside = "/".join(parts[len(NAMESPACE) :])
    if parts[: len(NAMESPACE)] != NAMESPACE or not f"{inside}/".startswith(SHARED):
        raise refusal(source, f"imports {wanted.module}, which is no code for hosts", f"Import from {SHARED}")
    found = _file_of(inside, read)
    # A name of a package is a module of it, or stands in its __init__.py.
    below = (
        _file_of(f"{inside}/{wanted.name}", read)
        if wanted.name and not (found or "").endswith(f"{inside}.py")
        else None
    )
    if found is None and below is None:
        name = ".".join(filter(None, (wanted.module, wanted.name)))
        raise refusal(source, f"imports {name}, which the collection does not have", "Correct the import")
    folders = inside.split("/")
    above = ["/".join([*folders[:count], PACKAGE]) for count in range(1, len(folders) + 1)]
    return [file for file in (*above, found, below) if file is not None and read(file) is not None]


def _file_of(inside: str, read: Callable[[str], str | None]) -> str | None:
    return next((file for file in (f"{inside}.py", f"{inside}/{PACKAGE}") if read(file) is not None), None)
