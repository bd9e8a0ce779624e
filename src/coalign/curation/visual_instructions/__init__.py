"""Instructions about pictures: conversations, what people say of them, rewards that learn it, rewriting under a guard of facts."""
