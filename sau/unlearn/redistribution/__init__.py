"""What happens to the update that pruned weights cannot take. One file per method; this is the project's own
reading of importance-aware redistribution (arXiv 2602.00577), whose formulas are not public to us."""
