# SPDX-License-Identifier: Apache-2.0
"""Journeys use the lab as the tests of the finished lab do."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"

sys.path.insert(0, str(Path(__file__).parent))
_spec = importlib.util.spec_from_file_location("lab_access", TESTS / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["lab_access"] = _module
_spec.loader.exec_module(_module)

lab = _module.lab
