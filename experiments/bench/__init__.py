"""Side-by-side benchmarks, one file each."""
