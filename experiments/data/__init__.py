"""Real data: where it comes from, how it is verified, how it is split."""
