# SPDX-License-Identifier: Apache-2.0
"""Settings of the pure tests."""

from __future__ import annotations

from hypothesis import settings

# How fast a machine is at the moment says nothing about the code.
settings.register_profile("holdfast", deadline=None)
settings.load_profile("holdfast")
