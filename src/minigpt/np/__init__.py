"""The transformer in NumPy, forward and backward: the mathematics of minigpt, and nothing but NumPy below it.

Read in this order: config.py and parameters.py (sizes and names), ops.py, norms.py, activations.py, positions.py, attention.py,
heads.py, block.py, head.py, network.py, model.py; for generation past.py, sampling.py, generation.py; then workspace.py (where
arrays come from).
"""
