"""Sparsity-aware unlearning: the library. Paths and tensors in, paths and small frozen models out."""
