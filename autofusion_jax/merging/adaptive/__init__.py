"""Methods that adapt their coefficients on unlabelled inputs."""
