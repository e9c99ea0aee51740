# SPDX-License-Identifier: Apache-2.0
"""Breaks a real cluster while clients write, and checks every acknowledged write afterwards."""
