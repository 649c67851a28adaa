"""A training run on disk: its folder, its records and its checkpoints. How a run is trained is in `minigpt.training`."""
