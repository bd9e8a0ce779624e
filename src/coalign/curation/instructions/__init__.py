"""Instructions that programs can check: rules and their combination, verifiers that a model writes, replies that pass them."""
