"""What a model is: its files, its tokenizer and prompts, its golden vectors."""
