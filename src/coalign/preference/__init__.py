"""Pure loss functions and learning from fixed feedback."""
