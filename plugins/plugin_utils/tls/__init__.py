# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Certificates and authorities on the controller: issued, stored, rotated."""
