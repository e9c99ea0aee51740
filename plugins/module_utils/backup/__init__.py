# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Backups of every engine: what was made, what is proven, what is kept, and when the next one is due."""
