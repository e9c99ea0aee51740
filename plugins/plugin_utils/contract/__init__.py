# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What a playbook is asked for: its variables, their types, and the nearest name to a mistyped one."""
