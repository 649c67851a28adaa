"""Stories in, batches of token ids out: corpora, tokenizers, token files and batches."""
