"""Versions: their records, registry, lineage, picture, reproduction, archive."""
