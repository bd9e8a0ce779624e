"""Ways of making training answers, compared by what a model itself says of a few answers of each."""
