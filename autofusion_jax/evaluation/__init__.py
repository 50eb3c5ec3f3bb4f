"""Measuring networks: accuracy by task, interpolation curves, and the controls to beat."""
