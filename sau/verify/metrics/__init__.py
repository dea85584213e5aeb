"""Metrics, one file each: the published definition, its direction and how records are aggregated."""
