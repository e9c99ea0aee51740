"""The tier as manifests for Kubernetes: what an inventory declares, as CloudNativePG and a StatefulSet of Valkey have it."""
