"""`python -m minigpt`, which is `minigpt`."""

from minigpt.cli import main

if __name__ == "__main__":
    main()
