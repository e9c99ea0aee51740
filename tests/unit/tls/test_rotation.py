# SPDX-License-Identifier: Apache-2.0
"""Steps of a rotation: their order, what each leaves in the folder, and that a killed one continues."""

from __future__ import annotations

import contextlib
import datetime
import os

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusals
from ansible_collections.holdfast.persistence.plugins.module_utils.tls.endpoints import Endpoint, Knock, Seen, problem
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls import rotation as rotation_module
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.certificates import (
    Wish,
    belongs,
    parse_authority,
    parse_key,
    parse_leaf,
)
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.rotation import Rotation, strangers
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.steps import STEPS, State, prove, refusal, take
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.store import Store, Terms
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
LATER = NOW + datetime.timedelta(hours=1)
WISHES = {"etcd": Wish("lab", "node1", ("node1",)), "valkey": Wish("lab", "node1", ("node1",))}
CLIENTS = {"orderapp": Wish("lab", "orderapp", (), ("client",))}
states = st.one_of(
    st.just(State()),
    st.builds(State, st.sampled_from(STEPS), st.just(NOW), st.just(False)),
    st.builds(State, st.sampled_from(("begin", "switch")), st.just(NOW), st.just(True)),
)


def provide(folder, now=LATER):
    return Store(str(folder), Terms("lab", now, 365, 30, 3650), check_mode=False).provide("node1", WISHES, CLIENTS)


def rotate(folder, now=LATER, check_mode=False):
    return Rotation(str(folder), "lab", now, 3650, check_mode)


def signed_by(pem, certificate):
    try:
        parse_leaf(pem.encode()).certificate.verify_directly_issued_by(certificate)
    except (ValueError, InvalidSignature):
        return False
    return True


def trusted(folder):
    return x509.load_pem_x509_certificates((folder / "ca.crt").read_bytes())


def test_all_certificates_are_issued_anew_once(tmp_path):
    before = provide(tmp_path, NOW)
    rotate(tmp_path).take("leaves")
    during = provide(tmp_path)
    assert set(during.issued) == {"etcd", "valkey", "clients/orderapp"}
    assert during.ca == before.ca
    assert provide(tmp_path).issued == {}
    rotate(tmp_path).prove("leaves")
    assert provide(tmp_path).issued == {}
    assert not (tmp_path / "rotation.json").exists()


def test_an_authority_is_replaced_in_three_steps(tmp_path):
    provide(tmp_path, NOW)
    (old,) = trusted(tmp_path)
    for step, count in (("begin", 2), ("switch", 2), ("finish", 1)):
        rotate(tmp_path).take(step)
        outcome = provide(tmp_path, LATER)
        assert len(trusted(tmp_path)) == count
        assert outcome.ca == (tmp_path / "ca.crt").read_text()
        new = next((certificate for certificate in trusted(tmp_path) if certificate != old), None)
        assert signed_by(outcome.pems["etcd"], old if step == "begin" else new)
        assert provide(tmp_path, LATER).issued == {}
        rotate(tmp_path).prove(step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.crt", "ca.key", "clients", "hosts"]
    assert old not in trusted(tmp_path)
    parse_authority((tmp_path / "ca.crt").read_bytes(), (tmp_path / "ca.key").read_bytes())


def test_each_step_issues_anew(tmp_path):
    # Patroni reads the trusted certificates only together with another one of its own.
    provide(tmp_path, NOW)
    for hour, step in enumerate(("begin", "switch", "finish"), 1):
        now = NOW + datetime.timedelta(hours=hour)
        rotate(tmp_path, now).take(step)
        assert set(provide(tmp_path, now).issued) == {"etcd", "valkey", "clients/orderapp"}
        rotate(tmp_path).prove(step)


def test_what_the_operator_trusts_beside_stays_trusted(tmp_path):
    other = tmp_path / "other"
    provide(other, NOW)
    folder = tmp_path / "own"
    provide(folder, NOW)
    (foreign,) = trusted(other)
    with open(folder / "ca.crt", "ab") as stream:
        stream.write((other / "ca.crt").read_bytes())
    for step in ("begin", "switch", "finish"):
        rotate(folder).take(step)
        rotate(folder).prove(step)
    assert foreign in trusted(folder)
    assert len(trusted(folder)) == 2


def test_servers_are_shown_the_authority_to_come_and_the_one_that_went(tmp_path):
    provide(tmp_path, NOW)
    (old,) = trusted(tmp_path)
    assert strangers(str(tmp_path), "lab", LATER) == (State(), {})
    rotate(tmp_path).take("begin")
    _state, pems = strangers(str(tmp_path), "lab", LATER)
    assert list(pems) == ["trusted"]
    assert not signed_by(pems["trusted"], old)
    rotate(tmp_path).prove("begin")
    rotate(tmp_path).take("switch")
    assert strangers(str(tmp_path), "lab", LATER)[1] == {}
    rotate(tmp_path).prove("switch")
    rotate(tmp_path).take("finish")
    _state, pems = strangers(str(tmp_path), "lab", LATER)
    assert list(pems) == ["distrusted"]
    assert signed_by(pems["distrusted"], old)


class KilledError(Exception):
    """The process died."""


@pytest.mark.parametrize("step", ["begin", "switch", "finish"])
@pytest.mark.parametrize("writes", range(5))
def test_a_killed_step_goes_on(tmp_path, monkeypatch, step, writes):
    provide(tmp_path, NOW)
    for before in ("begin", "switch", "finish"):
        if before == step:
            break
        rotate(tmp_path).take(before)
        rotate(tmp_path).prove(before)
    left = [writes]

    def dying(real):
        def act(*arguments):
            if left[0] == 0:
                raise KilledError
            left[0] -= 1
            return real(*arguments)

        return act

    with monkeypatch.context() as patch:
        patch.setattr(rotation_module, "write_whole", dying(rotation_module.write_whole))
        patch.setattr(os, "replace", dying(os.replace))
        with contextlib.suppress(KilledError):
            rotate(tmp_path).take(step)
    # A run of site.yml between finds a sound folder.
    provide(tmp_path, LATER)
    rotate(tmp_path).take(step)
    outcome = provide(tmp_path, LATER)
    rotate(tmp_path).prove(step)
    authority = parse_authority((tmp_path / "ca.crt").read_bytes(), (tmp_path / "ca.key").read_bytes())
    assert signed_by(outcome.pems["etcd"], authority.signing)
    assert len(authority.certificates) == (1 if step == "finish" else 2)


def test_check_mode_touches_nothing(tmp_path):
    provide(tmp_path, NOW)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    taken = rotate(tmp_path, check_mode=True).take("begin")
    assert "trust the new authority, too" in taken.texts
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_missing_key_is_refused_before_anything_changes(tmp_path):
    provide(tmp_path, NOW)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(Refusals, match=r"ca\.key is missing: put it back"):
        rotate(tmp_path).take("begin")
    assert not (tmp_path / "rotation.json").exists()


def test_the_old_key_stays_until_the_end(tmp_path):
    provide(tmp_path, NOW)
    old = parse_key((tmp_path / "ca.key").read_bytes())
    for step in ("begin", "switch"):
        rotate(tmp_path).take(step)
        rotate(tmp_path).prove(step)
    assert belongs(trusted(tmp_path)[0], parse_key((tmp_path / "ca.key.previous").read_bytes()))
    assert belongs(trusted(tmp_path)[0], old)


@pytest.mark.parametrize(
    ("state", "step", "text"),
    [
        (State(), "switch", "no new authority is begun: run it with rotate_certificates_ca=begin first"),
        (State("begin", NOW, False), "switch", "run it again with rotate_certificates_ca=begin"),
        (State("begin", NOW, True), "finish", "run it with rotate_certificates_ca=switch now"),
        (State("switch", NOW, True), "leaves", "run it with rotate_certificates_ca=finish now"),
        (State("leaves", NOW, False), "begin", "run it again without rotate_certificates_ca"),
        (State("finish", NOW, False), "begin", "run it again with rotate_certificates_ca=finish"),
    ],
)
def test_steps_out_of_order_are_refused_with_what_is_due(state, step, text):
    assert text in refusal(state, step)


@given(states, st.sampled_from(STEPS))
def test_a_step_is_refused_or_leads_on(state, step):
    if refusal(state, step):
        assert state.step != step
        return
    taken = take(state, step, LATER)
    assert taken.step == step
    assert refusal(taken, step) == ""
    assert State.from_json(taken.to_json()) == taken
    assert prove(taken).step == ("" if step in ("leaves", "finish") else step)


ENDPOINT = Endpoint("PostgreSQL", "198.18.0.11", 5432, "/etc/ssl/holdfast/postgresql.pem", "postgresql")
GOOD = Knock("", "aa", True)


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        (Seen(GOOD), ""),
        (Seen(Knock("refused")), "a client of the cluster cannot connect: refused"),
        (Seen(Knock("", "bb", True)), "it shows another certificate than the one in /etc/ssl/holdfast/postgresql.pem"),
        (Seen(Knock("", "aa", False)), "it refuses the cluster's own certificate"),
        (Seen(GOOD, trusted=GOOD), ""),
        (Seen(GOOD, trusted=Knock("", "aa", False)), "it does not trust the new authority yet"),
        (Seen(GOOD, trusted=Knock("unknown ca")), "it does not trust the new authority yet (unknown ca)"),
        (Seen(GOOD, distrusted=GOOD), "it still trusts the old authority"),
        (Seen(GOOD, distrusted=Knock("unknown ca")), ""),
    ],
)
def test_what_a_server_shows_and_takes_is_judged(seen, text):
    assert problem(ENDPOINT, "aa", seen) == text


def test_a_server_that_demands_no_certificate_proves_nothing_by_taking_one():
    free = Endpoint("PgBouncer", "198.18.0.11", 6432, "/x.pem", "postgresql", demands=False)
    assert problem(free, "aa", Seen(GOOD, distrusted=GOOD)) == ""
