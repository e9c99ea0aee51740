# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""A Valkey cluster: its shape, what its servers report, and the connections to them."""
