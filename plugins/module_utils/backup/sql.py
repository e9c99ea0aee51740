# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Names and texts as SQL takes them. No I/O."""

from __future__ import annotations


def identifier(name: str) -> str:
    """Return a name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def unquoted(name: str) -> str:
    """Return an identifier without its quotes."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def qualified(table: str) -> str:
    """Return schema.table as SQL takes it."""
    schema, _dot, name = table.partition(".")
    return f"{identifier(schema)}.{identifier(name)}"


def literal(text: str) -> str:
    """Return a text as SQL takes it."""
    return "'" + text.replace("'", "''") + "'"
