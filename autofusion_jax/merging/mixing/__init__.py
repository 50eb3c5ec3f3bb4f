"""Methods that combine parts of networks into a network of another shape."""
