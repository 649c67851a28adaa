"""The transformer in NumPy, forward and backward: the mathematics of minigpt, and nothing but NumPy below it.

Read in this order: ops.py, attention.py, block.py, head.py, model.py; then parameters.py and workspace.py.
"""
