"""What the page of `minigpt serve` shows of a model, as values for JSON. Everything is computed by the public functions."""
