# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Rules over an inventory and its hosts, applied before anything changes."""
