"""The next token of one text on a CPU: a layer a call, at the rate at which memory gives weights."""
