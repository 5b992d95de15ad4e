"""What stands on a backbone: hidden states at a few positions in, a model's outputs out."""
