# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The collection's own programs on a host: their folders, and what earlier releases left."""
