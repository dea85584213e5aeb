"""Tracked steps: each resolves references, does one thing, records it, and returns a reference."""
