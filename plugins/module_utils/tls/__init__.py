# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What can be told about certificates without a library."""
