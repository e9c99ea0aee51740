# SPDX-License-Identifier: Apache-2.0
"""Names and texts as SQL takes them."""

from __future__ import annotations

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import sql
from hypothesis import given
from hypothesis import strategies as st


@given(st.text(min_size=1))
def test_any_name_is_one_identifier(name):
    quoted = sql.identifier(name)
    assert sql.unquoted(quoted) == name
    assert quoted[1:-1].replace('""', "").count('"') == 0


@given(st.text())
def test_any_text_is_one_literal(text):
    assert sql.literal(text)[1:-1].replace("''", "").count("'") == 0
