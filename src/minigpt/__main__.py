"""`python -m minigpt`, which is `minigpt`."""

from minigpt.cli import main

main()
