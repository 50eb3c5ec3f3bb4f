"""Checkpoints of other libraries, in and out: one file for each of their formats."""
