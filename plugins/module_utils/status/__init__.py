# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""One screen about everything: what was found, and how it is shown."""
