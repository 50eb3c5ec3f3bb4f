"""Methods that fit the merged weights to activations by least squares."""
