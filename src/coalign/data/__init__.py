"""Records, readers and writers, chat templates, tokenisation, the data check."""
