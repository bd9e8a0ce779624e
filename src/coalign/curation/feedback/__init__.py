"""What users say in their next turn, as labels of the reply before it."""
