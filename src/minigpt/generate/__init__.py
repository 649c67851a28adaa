"""Text generation with a trained model and its tokenizer."""
