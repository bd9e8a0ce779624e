"""Keys and values of prompts that were computed before, from which a prompt with the same beginning goes on."""
