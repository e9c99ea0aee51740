# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Package sources of apt, in both of its formats (sources.list(5)). No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Source:
    """One source. options: the ones a mirror needs (signed-by, trusted), by lower-case name."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)


KEPT_OPTIONS = ("signed-by", "trusted")


def parse_list(text: str) -> list[Source]:
    """Return the binary package sources of a one-line style file (*.list)."""
    sources = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split()
        if not words or words[0] != "deb":
            continue
        words, options = _take_options(words[1:])
        if len(words) >= 2:
            sources.append(Source((words[0],), (words[1],), tuple(words[2:]), _keep(options)))
    return sources


def _take_options(words: list[str]) -> tuple[list[str], dict[str, str]]:
    if not words or not words[0].startswith("["):
        return words, {}
    joined = " ".join(words)
    inside, _bracket, rest = joined[1:].partition("]")
    pairs = (word.split("=", 1) for word in inside.split() if "=" in word)
    return rest.split(), {key.lower(): value for key, value in pairs}


def parse_deb822(text: str) -> list[Source]:
    """Return the enabled binary package sources of a deb822 style file (*.sources)."""
    sources = []
    for fields in _stanzas(text):
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in {"no", "false"}:
            continue
        uris, suites = fields.get("uris", "").split(), fields.get("suites", "").split()
        sources.append(Source(tuple(uris), tuple(suites), tuple(fields.get("components", "").split()), _keep(fields)))
    return sources


def _stanzas(text: str) -> Iterable[dict[str, str]]:
    fields: dict[str, str] = {}
    name = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, name = {}, ""
        elif line[0] in " \t" and name:
            fields[name] += "\n" + line.strip()
        elif ":" in line:
            name, value = line.split(":", 1)
            name = name.strip().lower()
            fields[name] = value.strip()


def _keep(options: dict[str, str]) -> dict[str, str]:
    return {name: options[name] for name in KEPT_OPTIONS if name in options}


def has_suite(sources: Iterable[Source], suite: str) -> bool:
    """Return whether one of the sources serves the suite."""
    return any(suite in source.suites for source in sources)


def suite_beside(sources: Iterable[Source], release: str, suite: str) -> Source:
    """Return the source of a suite that lives beside the release's own main source, on the same mirror.

    Raises LookupError where no source serves the release.
    """
    for source in sources:
        if release in source.suites:
            return Source(source.uris, (suite,), ("main",), source.options)
    raise LookupError(f"no package source of this host serves {release}")


def pins(suite: str, packages: Sequence[str]) -> str:
    """Return preferences (apt_preferences(5)) that let these packages alone come from a suite.

    Everything else there has less than what is installed (100), and is taken only where it is needed and nowhere else.
    """
    return (
        "# Written by Ansible (holdfast.persistence.apt_backports).\n"
        f"Package: *\nPin: release n={suite}\nPin-Priority: 50\n\n"
        f"Package: {' '.join(packages)}\nPin: release n={suite}\nPin-Priority: 600\n"
    )


def render(source: Source) -> str:
    """Return the source in deb822 style."""
    lines = [
        "Types: deb",
        f"URIs: {' '.join(source.uris)}",
        f"Suites: {' '.join(source.suites)}",
        f"Components: {' '.join(source.components)}",
    ]
    names = {"signed-by": "Signed-By", "trusted": "Trusted"}
    for option, value in sorted(source.options.items()):
        # A key may be embedded: its further lines are continuation lines.
        lines.append(f"{names[option]}: " + value.replace("\n", "\n "))
    return "\n".join(lines) + "\n"
