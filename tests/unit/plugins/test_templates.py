# SPDX-License-Identifier: Apache-2.0
"""Engines of templates: one that makes text of numbers is refused, that of this run keeps them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.plugin_utils import templates


def test_the_engine_of_this_run_keeps_types_and_trusts_what_is_ours() -> None:
    engine = Templar(loader=DataLoader(), variables={"given": "4096"})
    templates.require_types(engine)
    assert engine.template(templates.trust("{{ given | int }}")) == 4096


def test_an_engine_that_makes_text_of_numbers_is_refused() -> None:
    """ansible-core 2.18.19 answers so unless jinja2_native is on."""
    with pytest.raises(Refusal) as told:
        templates.require_types(SimpleNamespace(template=lambda _text: "2"))
    assert "the text '2': allowed is the number 2" in str(told.value)
    assert "jinja2_native = true" in told.value.remedy
