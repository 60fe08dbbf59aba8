"""What runs a trained network: kernels of our own, a GPU, or torch alone."""
