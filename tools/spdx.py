# SPDX-License-Identifier: Apache-2.0
"""Write the line of the licence into every file of the checkout that lacks it: python tools/spdx.py. A second run changes nothing.

Files under plugins/ may also be used under the GPL 3.0 or later (README). REUSE.toml covers what can carry no comment, what is generated,
documents, and data of tests, which stays as its program wrote it. tests/unit/test_licences.py holds all of this.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARK = "SPDX-License-Identifier:"
# How a comment begins and ends, by the end of a file's name or by its whole name.
HASH, SLASHES, DASHES, JINJA = ("# ", ""), ("// ", ""), ("-- ", ""), ("{# ", " -#}")
STYLES = {
    **dict.fromkeys(
        (".py", ".yml", ".yaml", ".yamllint", ".sh", ".mk", ".toml", ".cfg", ".gitignore", "Makefile"), HASH
    ),
    **dict.fromkeys((".service", ".timer", ".path", ".rb", ".pl", ".txt"), HASH),
    **dict.fromkeys((".mjs", ".go", ".java"), SLASHES),
    **dict.fromkeys((".sql", ".lua"), DASHES),
    ".j2": JINJA,
}
# What REUSE.toml covers alone; the policy is a template that is also run as it is.
COVERED = re.compile(
    r"LICENSE|LICENSES/.*|tests/data/.*|tests/faults/results/.*|changelogs/(changelog\.yaml|fragments/.*)|.*\.(md|json|jsonl|php)"
    r"|roles/host/templates/policy-rc\.d\.j2"
)


def licence(path: str) -> str:
    """Return the licence of a file, by its path in the checkout."""
    return "Apache-2.0 OR GPL-3.0-or-later" if path.startswith("plugins/") else "Apache-2.0"


def files() -> Iterator[str]:
    """Yield the paths of the files that carry the line themselves."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for path in filter(None, listed.stdout.split("\0")):
        if (ROOT / path).is_file() and not COVERED.fullmatch(path):
            yield path


def style(path: str, text: str) -> tuple[str, str]:
    """Return how a comment of a file begins and ends. Raises KeyError where that is not known."""
    name = Path(path)
    key = name.name if name.name in STYLES else name.suffix
    return HASH if text.startswith("#!") and key not in STYLES else STYLES[key]


def has_line(text: str) -> bool:
    """Return whether a file's text says its licence in its head."""
    return any(MARK in line for line in text.splitlines()[:10])


def with_line(path: str, text: str) -> str:
    """Return a file's text with the line: after what must be first, and after a notice of copyright, which it belongs to."""
    if not text or has_line(text):
        return text
    begin, end = style(path, text)
    line = f"{begin}{MARK} {licence(path)}{end}\n"
    lines = text.splitlines(keepends=True)
    place = 0
    while place < len(lines) and re.match(
        r"#!|---\s*$|# (Copyright:|Apache License 2|GNU General)|#jinja2:", lines[place]
    ):
        place += 1
    return "".join([*lines[:place], line, *lines[place:]])


def main() -> int:
    """Write what is missing, say which files were changed, and return the exit status."""
    for path in files():
        file = ROOT / path
        old = file.read_text(encoding="utf-8")
        new = with_line(path, old)
        if new != old:
            file.write_text(new, encoding="utf-8")
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
