# SPDX-License-Identifier: Apache-2.0
"""Deciding on and issuing certificates."""

from __future__ import annotations

import dataclasses
import datetime
import os
import stat

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal, Refusals
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.certificates import (
    Authority,
    Leaf,
    Wish,
    certificate_pem,
    issue,
    key_pem,
    leaf_pem,
    make_authority,
    make_key,
    parse_authority,
    parse_leaf,
    problems_of_foreign,
    reason_to_issue,
)
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.store import Store, Terms, foreign
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
MONTH = datetime.timedelta(days=30)
WISH = Wish("lab", "node1", ("node1", "198.18.0.11", "localhost", "::1"))
CLIENT = Wish("lab", "", (), ("client",))
TERMS = Terms("lab", NOW, days=365, renew_days=30, ca_days=3650)


def new_authority(days=3650):
    key = make_key()
    return Authority((make_authority("lab", key, NOW, days),), key)


AUTHORITY = new_authority()


def test_issued_leaf_is_as_wished_and_survives_its_file():
    leaf = issue(WISH, AUTHORITY, NOW, 365)
    assert reason_to_issue(parse_leaf(leaf_pem(leaf)), WISH, AUTHORITY, NOW, MONTH) == ""


def test_client_certificate_of_etcd_has_no_common_name():
    certificate = issue(CLIENT, AUTHORITY, NOW, 365).certificate
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME) == []
    assert certificate.subject.rfc4514_string() == "O=lab"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"common_name": "node2"}, "subject is 'CN=node1,O=lab'"),
        ({"organization": "other"}, "subject is 'CN=node1,O=lab'"),
        ({"names": (*WISH.names, "db.example")}, "lacks the names db.example"),
        ({"names": ("node1", "198.18.0.11", "localhost")}, "has the names ::1 too much"),
        ({"usages": ("server",)}, "has more usages than wished"),
    ],
)
def test_another_wish_issues_anew(changed, reason):
    leaf = issue(WISH, AUTHORITY, NOW, 365)
    assert reason_to_issue(leaf, dataclasses.replace(WISH, **changed), AUTHORITY, NOW, MONTH) == reason


def test_missing_usage_is_told():
    leaf = issue(dataclasses.replace(WISH, usages=("client",)), AUTHORITY, NOW, 365)
    assert reason_to_issue(leaf, WISH, AUTHORITY, NOW, MONTH) == "is not for use as server"


def test_addresses_compare_in_their_normal_form():
    leaf = issue(dataclasses.replace(WISH, names=("0:0:0:0:0:0:0:1", "NODE1")), AUTHORITY, NOW, 365)
    assert reason_to_issue(leaf, dataclasses.replace(WISH, names=("::1", "node1")), AUTHORITY, NOW, MONTH) == ""


def test_leaf_is_renewed_before_it_expires():
    leaf = issue(WISH, AUTHORITY, NOW, 365)
    later = NOW + datetime.timedelta(days=335)
    assert reason_to_issue(leaf, WISH, AUTHORITY, later - datetime.timedelta(seconds=1), MONTH) == ""
    assert reason_to_issue(leaf, WISH, AUTHORITY, later, MONTH) == "expires at 2027-01-01 00:00 UTC"


def test_leaf_of_another_authority_is_replaced():
    leaf = issue(WISH, new_authority(), NOW, 365)
    assert reason_to_issue(leaf, WISH, AUTHORITY, NOW, MONTH) == "issued by another authority"


def test_leaf_never_outlives_the_authority():
    short = new_authority(days=100)
    assert issue(WISH, short, NOW, 365).certificate.not_valid_after_utc == NOW + datetime.timedelta(days=100)


def test_key_that_does_not_fit_is_refused():
    leaf = issue(WISH, AUTHORITY, NOW, 365)
    pem = key_pem(make_key()) + certificate_pem([leaf.certificate])
    with pytest.raises(Refusal, match="does not belong"):
        parse_leaf(pem)


def test_key_of_another_authority_is_refused():
    with pytest.raises(Refusal, match="none of its certificates"):
        parse_authority(certificate_pem(AUTHORITY.certificates), key_pem(make_key()))


def test_authority_of_several_certificates_trusts_all_and_signs_with_its_own():
    former, own = new_authority(), new_authority()
    both = Authority((*former.certificates, *own.certificates), own.key)
    assert both.signing == own.certificates[0]
    assert reason_to_issue(issue(WISH, former, NOW, 365), WISH, both, NOW, MONTH) == ""


def test_foreign_certificate_may_have_more_but_not_less():
    more = dataclasses.replace(WISH, names=(*WISH.names, "db.example"), organization="another")
    leaf = issue(more, AUTHORITY, NOW, 365)
    assert problems_of_foreign(leaf, WISH, AUTHORITY, NOW) == []
    late = NOW + datetime.timedelta(days=400)
    wish = dataclasses.replace(WISH, names=("10.0.0.1",))
    problems = problems_of_foreign(leaf, wish, new_authority(), late)
    assert [problem.split()[0] for problem in problems] == ["does", "is", "lacks"]
    assert "common name" in problems_of_foreign(leaf, CLIENT, AUTHORITY, NOW)[0]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.one_of(st.ip_addresses().map(str), st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,8}){0,2}", fullmatch=True))),
    st.sampled_from([("server",), ("client",), ("server", "client")]),
    st.text("abcdef.-", max_size=80),
)
def test_what_is_issued_is_never_issued_again(names, usages, common_name):
    wish = Wish("lab", common_name, tuple(names), usages)
    leaf = parse_leaf(leaf_pem(issue(wish, AUTHORITY, NOW, 365)))
    assert reason_to_issue(leaf, wish, AUTHORITY, NOW, MONTH) == ""


def provide(folder, check_mode=False, terms=TERMS, wishes=None):
    return Store(str(folder), terms, check_mode).provide(
        "node1", wishes or {"etcd": WISH, "etcd-client": CLIENT}, {"app": Wish("lab", "app", (), ("client",))}
    )


def test_store_issues_once(tmp_path):
    folder = tmp_path / "tls"
    first = provide(folder)
    assert list(first.issued) == ["ca", "etcd", "etcd-client", "clients/app"]
    second = provide(folder)
    assert second.issued == {}
    assert (second.ca, second.pems) == (first.ca, first.pems)


def test_store_is_private(tmp_path):
    folder = tmp_path / "tls"
    provide(folder)
    for parent, _folders, files in os.walk(folder):
        assert stat.S_IMODE(os.stat(parent).st_mode) == 0o700
        assert {stat.S_IMODE(os.stat(os.path.join(parent, name)).st_mode) for name in files} <= {0o600}


def test_check_mode_tells_and_writes_nothing(tmp_path):
    folder = tmp_path / "tls"
    outcome = provide(folder, check_mode=True)
    assert list(outcome.issued) == ["ca", "etcd", "etcd-client", "clients/app"]
    assert outcome.ca is None
    assert outcome.pems == {"etcd": None, "etcd-client": None}
    assert not folder.exists()


@pytest.mark.parametrize("lost", ["ca.crt", "hosts/node1/etcd.pem", "clients/app.crt", "clients/app.key"])
def test_run_killed_between_two_files_is_completed(tmp_path, lost):
    provide(tmp_path)
    (tmp_path / lost).unlink()
    provide(tmp_path)
    assert provide(tmp_path).issued == {}


def test_key_of_a_killed_first_run_becomes_the_authoritys(tmp_path):
    provide(tmp_path)
    key = (tmp_path / "ca.key").read_bytes()
    (tmp_path / "ca.crt").unlink()
    provide(tmp_path)
    assert (tmp_path / "ca.key").read_bytes() == key


def test_client_key_of_a_killed_run_is_replaced(tmp_path):
    provide(tmp_path)
    (tmp_path / "clients" / "app.key").write_bytes(key_pem(make_key()))
    assert list(provide(tmp_path).issued) == ["clients/app"]


def test_authority_without_its_key_serves_until_something_must_be_issued(tmp_path):
    provide(tmp_path)
    (tmp_path / "ca.key").unlink()
    assert provide(tmp_path).issued == {}
    with pytest.raises(Refusals, match=r"put ca\.key back"):
        provide(tmp_path, wishes={"etcd": dataclasses.replace(WISH, common_name="node2")})


def test_authority_about_to_expire_is_refused_not_renewed_for_ever(tmp_path):
    with pytest.raises(Refusals, match="make a new authority"):
        provide(tmp_path, terms=dataclasses.replace(TERMS, ca_days=20))


def test_renewal_ahead_of_the_whole_life_is_refused(tmp_path):
    with pytest.raises(Refusals, match="every run"):
        provide(tmp_path, terms=dataclasses.replace(TERMS, renew_days=365))


def test_foreign_folder_names_every_problem(tmp_path):
    with pytest.raises(Refusals, match=r"ca\.crt is missing"):
        foreign(str(tmp_path), "node1", {"etcd": WISH}, NOW)
    provide(tmp_path)
    assert foreign(str(tmp_path), "node1", {"etcd": WISH}, NOW).issued == {}
    (tmp_path / "hosts" / "node1" / "etcd.pem").write_text("nothing")
    with pytest.raises(Refusals) as error:
        foreign(str(tmp_path), "node1", {"etcd": WISH, "valkey": WISH}, NOW)
    assert len(error.value.problems) == 2


def test_leaf_can_be_verified_strictly():
    """Python 3.13 verifies with X509_STRICT: key identifiers and critical basic constraints must be there."""
    leaf = issue(WISH, AUTHORITY, NOW, 365)
    assert isinstance(leaf, Leaf)
    store = x509.verification.Store(list(AUTHORITY.certificates))
    verifier = x509.verification.PolicyBuilder().store(store).time(NOW).build_server_verifier(x509.DNSName("node1"))
    assert verifier.verify(leaf.certificate, [])
