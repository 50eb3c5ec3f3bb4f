"""Methods whose networks mix parts of several: recombined, upscaled, or with experts inside."""
