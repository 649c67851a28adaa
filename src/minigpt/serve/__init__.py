"""The local page of `minigpt serve`: an HTTP server around minigpt.page."""
