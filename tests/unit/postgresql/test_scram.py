# SPDX-License-Identifier: Apache-2.0
"""Verifiers of passwords are PostgreSQL's."""

from __future__ import annotations

from ansible_collections.holdfast.persistence.plugins.filter.weak_passwords import weak_passwords
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.scram import matches, verifier
from hypothesis import given
from hypothesis import settings as options
from hypothesis import strategies as st

# Made by PostgreSQL 17: SET password_encryption = 'scram-sha-256'; ALTER ROLE x PASSWORD 'pencil and paper';
KNOWN = (
    "SCRAM-SHA-256$4096:zYE/zdZvahQ9qEkvVjJVkg==$"
    "aLD1USDfDQTaSYDbXvISbhH7n85PQk/OC2yHtC2CwX8=:QJEjnmRb00VXXVnzIhjSZdbQ9a1xOYRglLuDr8NvaKE="
)


def test_a_verifier_of_postgresql_is_recognised():
    assert matches(KNOWN, "pencil and paper")
    assert not matches(KNOWN, "pencil and paper ")


def test_other_forms_match_nothing():
    assert not matches(None, "x")
    assert not matches("", "")
    assert not matches("md5d8578edf8458ce06fbc5bb76a58c5ca4", "qwerty")


@options(max_examples=20)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1), st.binary(min_size=16, max_size=16))
def test_a_verifier_is_of_its_password_alone(password, salt):
    made = verifier(password, salt)
    assert matches(made, password)
    assert not matches(made, password + "x")
    assert "'" not in made


def test_weak_passwords_are_named_and_never_shown():
    found = weak_passwords({
        "empty": "", "short": "hunter2", "name_of_it": "name_of_it", "well": "changeme12345", "same": "a" * 20,
        "line": "with a\nline break in it", "umlaut": "Käsebrötchen mit Ei", "good": "Zm9vYmFyYmF6cXV4MTIz",
    })  # fmt: skip
    assert [text.partition(":")[0] for text in found] == [
        "empty",
        "short",
        "name_of_it",
        "well",
        "same",
        "line",
        "umlaut",
    ]
    assert "hunter2" not in "".join(found)
