"""Pure loss functions, and the objectives made of them."""
