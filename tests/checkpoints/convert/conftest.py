"""The recorder and its network need torch, and hold no tests."""

collect_ignore = ["record.py", "torch_resnet.py"]
