"""Checks, one file each: a number, its interval and the margins a policy allows."""
