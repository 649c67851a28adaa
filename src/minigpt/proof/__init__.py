"""Checks of every gradient against PyTorch and against finite differences, and mutation tests of these checks.

The checks proceed from small to large, and each group builds on those before it: single operations, attention, blocks, the model,
orthogonalization, the optimizer, one training step, a loss curve. A planted fault is a mutation of the source that some check
must detect.

Reading order: configs.py and inputs.py (sizes, configurations and random inputs), cases.py (what is compared), checks.py (how it
is compared), orthogonalization.py and training.py (the checks of training), faults.py (the planted faults) and gradcheck.py (the
command). The package imports np/ and training/.
"""
