"""The recorder needs torch, and holds no tests."""

collect_ignore = ["record.py"]
