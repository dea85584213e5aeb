"""Stressors, one file each: what may happen to a model after it ships, and what an attacker may do to it."""
