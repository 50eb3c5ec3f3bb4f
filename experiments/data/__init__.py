"""Real data: its sources, their verification, its splits."""
