"""Unlearning objectives: what each step pushes the forget rows to, and how it holds the retain rows. One file each."""
