"""Zipping: merging the units of several networks within and across them."""
