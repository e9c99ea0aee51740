# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Event stores: their shape, ranges of them, archives, and their way out and in."""
