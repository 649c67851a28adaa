"""The Python interface: train a model, and open a run."""
