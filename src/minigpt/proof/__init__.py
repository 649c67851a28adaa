"""The proof: every gradient against PyTorch and against finite differences, and planted faults that must be caught.

It stands above np/ and train/, because the ladder ends with whole training steps. `minigpt gradcheck` and `pytest tests` run it.
"""
