"""AutoFusion: permutations learned by gradient descent through the Sinkhorn operator."""
