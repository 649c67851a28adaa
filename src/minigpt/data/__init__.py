"""Corpora, tokenizers, token files and batches: everything between text files and the token ids of a training step."""
