"""Ensembles: merged networks that run all of their members."""
