"""Flows: the order of the steps, schedules, and the command line."""
