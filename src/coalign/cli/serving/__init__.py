"""Commands that let a model talk: to a person, or to clients of a server."""
