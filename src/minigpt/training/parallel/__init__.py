"""Data-parallel training on the cores of one machine (workers) and on several machines (MPI ranks), and how ranks are launched.

The training loop, which does not depend on the number of workers or ranks, is in `minigpt.training.trainer`.
"""
