# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The tier as manifests for Kubernetes: what an inventory declares, as CloudNativePG and a StatefulSet of Valkey have it."""
