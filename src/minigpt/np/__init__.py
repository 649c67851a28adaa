"""The transformer in NumPy: the forward and the backward pass of every operation, with no dependency but NumPy.

Reading order: config.py and parameters.py (sizes and names); ops.py, loss.py, norms.py, activations.py, positions.py and
attention.py (single operations); context.py, multi_head_attention.py, block.py, lm_head.py, network.py and model.py (the model);
kv_cache.py, sampling.py, generation.py and recording.py (generation); workspace.py (memory). torch_primitives.py has the same
functions in PyTorch, for tests.
"""
