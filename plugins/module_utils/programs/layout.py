# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Where the collection's own programs stand on a host, and what surrounds the code of each. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

LIBRARY = "/usr/local/lib/holdfast"
FOLDER = f"{LIBRARY}/programs"
# The interpreter that the host's packages (psycopg2, yaml) belong to. -I: nothing of the environment or the working folder is imported.
START = ("/usr/bin/python3", "-I")
VERSION = "VERSION"

MAIN = '''# Written by Ansible (holdfast.persistence).
"""Start {name}, or tell its version."""

import os
import sys

if sys.argv[1:] == ["--version"]:
    with open(os.path.join(os.path.dirname(__file__), "VERSION"), encoding="utf-8") as stream:
        print("{name}", stream.read().strip())
    sys.exit()

from {module} import main

sys.exit(main())
'''

COMMAND = '''#!/usr/bin/python3 -I
# Written by Ansible (holdfast.persistence).
"""Become {name}."""

import os
import sys

os.execv({words[0]!r}, [*{words!r}, *sys.argv[1:]])
'''


def path_of(name: str) -> str:
    """Return the folder of a program, which Python runs as it is: `python3 -I FOLDER`."""
    return f"{FOLDER}/{name}"


def start_of(name: str) -> list[str]:
    """Return the words that start a program."""
    return [*START, path_of(name)]


def module_of(name: str) -> str:
    """Return the name of the module that holds a program's `main`."""
    return name.replace("-", "_")


def main_text(name: str) -> str:
    """Return `__main__.py` of a program."""
    return MAIN.format(name=name, module=module_of(name))


def command_text(name: str) -> str:
    """Return an executable file that becomes the program; it may also be given to python3."""
    return COMMAND.format(name=name, words=start_of(name))


def digest_of(files: Mapping[str, str]) -> str:
    """Return the digest of a program's files by relative path, its VERSION left out."""
    found = hashlib.sha256()
    for path, content in sorted(files.items()):
        if path != VERSION:
            found.update(f"{path}\0{len(content.encode())}\0{content}".encode())
    return found.hexdigest()


def version_text(version: str, files: Mapping[str, str]) -> str:
    """Return what VERSION holds: the collection's version, and by which build of it the files can be told from others."""
    return f"{version} {digest_of(files)[:12]}\n"
