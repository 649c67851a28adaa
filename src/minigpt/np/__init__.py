"""The transformer in NumPy, forward and backward: the mathematics of minigpt, and nothing but NumPy below it.

Read in this order: config.py and parameters.py (sizes and names), ops.py, attention.py, block.py, head.py, model.py; then
workspace.py (where arrays come from) and sampling.py.
"""
