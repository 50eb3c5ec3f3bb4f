"""Merging: the front door, the registry of methods, and one folder per family."""
