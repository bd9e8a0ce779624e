"""Material in plain English for the default model: questions, answers, words to use, translations."""
