"""Training networks from labels: resumable, whole segments of steps compiled."""
