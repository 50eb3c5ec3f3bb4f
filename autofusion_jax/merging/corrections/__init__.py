"""Corrections that follow any merge: REPAIR, and BatchNorm statistics measured again."""
