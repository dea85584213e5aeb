"""Masks and the pruners that make them."""
