"""Methods that match the units of one network to those of another."""
