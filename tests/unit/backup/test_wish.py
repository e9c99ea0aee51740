# SPDX-License-Identifier: Apache-2.0
"""What can be wanted of a restore, and what is refused."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.wish import parse_wish
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


@pytest.mark.parametrize(
    ("wish", "word"),
    [
        ({"source": "tape"}, "restore_source 'tape'"),
        ({"source": "logical"}, "restore_database is missing"),
        ({"source": "logical", "kind": "half"}, "restore_kind 'half'"),
        ({"source": "physical", "database": "a", "kind": "schema"}, "dumps only"),
        ({"source": "logical", "database": "a", "type": "time", "target": "x"}, "a dump holds one moment"),
        ({"source": "logical", "database": "a", "tables": ["items"]}, "schema.table"),
        ({"source": "logical", "database": "a", "tables": ["public.items"], "kind": "data"}, "full dump"),
        ({"source": "logical", "database": "postgres"}, "the cluster's own"),
        ({"source": "logical", "database": "a" * 60}, "too long"),
        ({"source": "logical", "database": "a", "when": "now"}, "when is unknown"),
    ],
)
def test_what_cannot_be_restored_is_refused(wish, word):
    with pytest.raises(Refusal, match=word):
        parse_wish(wish)


def test_a_wish_hides_its_password():
    assert "secret" not in repr(parse_wish({"source": "logical", "database": "a", "password": "secret"}))
