# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What pgBackRest says about its repositories, and what can be restored from them. No I/O."""
