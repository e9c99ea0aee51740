# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""HAProxy's runtime socket and statistics."""
