# SPDX-License-Identifier: Apache-2.0
"""The rooms of the code in numbers, read from the source: files and lines, who imports whom, exceptions, classes, purity.

A room is a folder of `plugins/module_utils`, or one of the folders beside it. `python tests/rooms.py` prints the tables.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "ansible_collections.holdfast.persistence.plugins."
UTILS = "module_utils"
# What an import of this says: the file reaches a machine, another process, or a clock.
REACHING = frozenset(
    {
        "ansible",
        "asyncio",
        "concurrent",
        "ctypes",
        "fcntl",
        "getpass",
        "glob",
        "grp",
        "http",
        "importlib",
        "multiprocessing",
    }
    | {
        "os",
        "psycopg",
        "psycopg2",
        "pwd",
        "redis",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "socketserver",
        "ssl",
    }
    | {"subprocess", "tempfile", "threading", "time", "urllib", "valkey", "yaml"}
)
# Parts of those that only compute, or keep threads apart.
COMPUTING = frozenset(
    {
        "os.path",
        "urllib.parse",
        "threading.Lock",
        "ssl.PEM_FOOTER",
        "ssl.PEM_HEADER",
        "ssl.PEM_cert_to_DER_cert",
        "ssl.cert_time_to_seconds",
    }
    | {"yaml.YAMLError", "yaml.safe_load"}
    | {"ansible.module_utils.common.arg_spec", "ansible.module_utils.errors"}
)
# Calls that read a clock or a file wherever they come from.
ACTING = frozenset(
    ("open", "print", "input", "now", "utcnow", "today", "read_text", "write_text", "read_bytes", "write_bytes")
)
PURE = "No I/O."


@dataclass(frozen=True)
class Source:
    """One file. name: its path below plugins, without suffix, such as module_utils/valkey/slots."""

    path: Path
    name: str

    @cached_property
    def text(self) -> str:
        """Return what stands in it."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        """Return it parsed."""
        return ast.parse(self.text, str(self.path))

    @property
    def room(self) -> str:
        """Return the folder that it stands in, such as module_utils/valkey."""
        return self.name.rpartition("/")[0]

    @property
    def promise(self) -> bool:
        """Return whether its documentation says that it is pure."""
        return PURE in (ast.get_docstring(self.tree) or "")

    @cached_property
    def classes(self) -> list[ast.ClassDef]:
        """Return its classes."""
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)]

    def imported(self, names: Mapping[str, Source]) -> set[str]:
        """Return the names of the collection's files that it imports."""
        found = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
                module = str(node.module).removeprefix(PACKAGE).replace(".", "/")
                found |= {module if module in names else f"{module}/{alias.name}" for alias in node.names}
        return found

    def reaches(self) -> set[str]:
        """Return what it imports or calls that a pure file does not."""
        found = set()
        for node in ast.walk(self.tree):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and node.module not in COMPUTING:
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                found |= {f"{name}()"} & {f"{acting}()" for acting in ACTING}
            found |= {name for name in modules if name not in COMPUTING and name.split(".")[0] in REACHING}
        return found


def sources(root: Path = ROOT) -> dict[str, Source]:
    """Return all files of Python under plugins, by name."""
    folder = root / "plugins"
    found = (Source(path, path.relative_to(folder).with_suffix("").as_posix()) for path in sorted(folder.rglob("*.py")))
    return {source.name: source for source in found}


def programs(root: Path = ROOT) -> list[Source]:
    """Return the programs that roles install on hosts."""
    paths = sorted([*root.glob("roles/*/files/*.py"), *root.glob("roles/*/files/*/*.py")])
    return [Source(path, path.relative_to(root).with_suffix("").as_posix()) for path in paths]


def closure(name: str, files: Mapping[str, Source]) -> set[str]:
    """Return the files that one imports, also through others."""
    found: set[str] = set()
    todo = [name]
    while todo:
        for other in files[todo.pop()].imported(files) - found:
            found.add(other)
            todo.append(other)
    return found


def arrows(files: Mapping[str, Source]) -> Counter[tuple[str, str]]:
    """Return how many imports lead from one room to another."""
    pairs = ((source.room, files[name].room) for source in files.values() for name in source.imported(files))
    return Counter(pair for pair in pairs if pair[0] != pair[1])


def upward(files: Mapping[str, Source]) -> list[tuple[str, str]]:
    """Return the imports that lead up: from module_utils to who uses it, or on a way that leads back to the first room.

    Of two rooms that import each other, the direction with fewer imports is the wrong one. A folder inside a room is a room of
    its own, of the same engine.
    """
    count = arrows(files)
    below: dict[str, set[str]] = defaultdict(set)
    for left, right in count:
        below[left].add(right)

    def leads(start: str, end: str) -> bool:
        seen, todo = set(), [start]
        while todo:
            room = todo.pop()
            if room == end:
                return True
            if room not in seen:
                seen.add(room)
                todo.extend(below[room])
        return False

    wrong = set()
    for left, right in count:
        outwards = left.startswith(UTILS) and not right.startswith(UTILS)
        if outwards or (leads(right, left) and count[left, right] <= count.get((right, left), count[left, right])):
            wrong.add((left, right))
    return sorted(
        (source.name, name)
        for source in files.values()
        for name in source.imported(files)
        if (source.room, files[name].room) in wrong
    )


def exceptions(files: Iterator[Source] | list[Source]) -> list[tuple[Source, ast.ClassDef]]:
    """Return the classes of exceptions: those that are named so, or stand on one."""
    found = []
    for source in files:
        for node in source.classes:
            bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
            if any(base.endswith(("Error", "Exception", "Refusal")) for base in bases):
                found.append((source, node))
    return found


def silent(files: Mapping[str, Source]) -> list[str]:
    """Return the files of module_utils that could promise purity, by all that they import, and do not."""
    shared = [
        source for source in files.values() if source.name.startswith(UTILS) and source.path.name != "__init__.py"
    ]
    return [
        source.name
        for source in shared
        if not source.promise and not any(files[name].reaches() for name in {source.name} | closure(source.name, files))
    ]


def lines_of(node: ast.ClassDef) -> int:
    """Return the lines of a class."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def described(files: Mapping[str, Source]) -> dict[str, str]:
    """Return the rooms of shared code, each with the first line of its `__init__.py`."""
    inits = (source for source in files.values() if source.path.name == "__init__.py")
    return {
        source.room: (ast.get_docstring(source.tree) or "").partition("\n")[0]
        for source in inits
        if source.room.count("/") > 0
    }


def room_table(files: Mapping[str, Source]) -> list[str]:
    """Return the rows of docs/development.md about the rooms of shared code."""
    return [f"| `plugins/{room}/` | {text} |" for room, text in sorted(described(files).items())]


def main() -> None:
    """Print the tables."""
    files = sources()
    print("\n".join(room_table(files)) + "\n")
    count = arrows(files)
    rooms = sorted({source.room for source in files.values()})
    print("room | files | lines | imports of other rooms")
    for room in rooms:
        own = [source for source in files.values() if source.room == room]
        to = ", ".join(f"{right} {number}" for (left, right), number in sorted(count.items()) if left == room)
        print(f"{room} | {len(own)} | {sum(source.text.count(chr(10)) for source in own)} | {to}")
    within = sum(files[name].room == source.room for source in files.values() for name in source.imported(files))
    print(f"\nimports between rooms: {sum(count.values())}, within rooms: {within}, upward: {len(upward(files))}")
    for left, right in upward(files):
        print(f"  {left} -> {right}")
    found = exceptions([*files.values(), *programs()])
    print(f"\nclasses of exceptions: {len(found)}")
    print("\nclasses over 150 lines:")
    for source in [*files.values(), *programs()]:
        for node in source.classes:
            if lines_of(node) > 150:
                print(f"  {source.name}.{node.name} {lines_of(node)}")
    promised = [source for source in files.values() if source.promise]
    print(f"\nfiles that promise purity: {len(promised)}; of them not pure:")
    for source in promised:
        if source.reaches():
            print(f"  {source.name} {sorted(source.reaches())}")
    print("\nnothing that they import reaches out, but they do not say so:")
    for name in silent(files):
        print(f"  {name}")


if __name__ == "__main__":
    main()
