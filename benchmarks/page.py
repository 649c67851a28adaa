"""Measure how long the page of `minigpt serve` takes to show itself, and a text.

usage: python benchmarks/page.py RUN [--browser chromium] [--rounds 15]

Starts the server, opens the view "Look inside" in a headless browser, and changes the text. The time of a text ends one frame
after the logit lens, the last part of the view, has been drawn. Needs the extra `test` and a browser.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time

from playwright.sync_api import sync_playwright

TEXT = (
    "In a small house near the woods lived a boy named Kai. He had a lamb called Willow, and the two slept side by side. Behind "
    "his house there was a well that he liked very much. One stormy morning, Kai and Ivy were bored. There is nothing to do, "
    "said Ivy."
)
SHOW = """async (text) => {
  const state = await import("/static/state.js");
  const frame = () => new Promise(requestAnimationFrame);
  const before = document.querySelector("table.lens");
  const start = performance.now();
  state.set({ text });
  while (document.querySelector("table.lens") === before) await frame();
  await frame();
  return performance.now() - start;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run to serve")
    parser.add_argument("--browser", default="chromium", help="the browser (default: chromium)")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    start = time.perf_counter()
    command = [sys.executable, "-c", "from minigpt.cli import main; main()", "serve", options.run, "--no-open"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = server.stdout.readline().split()[1].removesuffix("/write")
    print(f"from the start of the command to its address: {time.perf_counter() - start:.2f} s")
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which(options.browser), args=arguments)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        start = time.perf_counter()
        page.goto(f"{address}/inside")
        page.wait_for_selector("table.lens")
        print(f"first view: {time.perf_counter() - start:.2f} s")
        times = [page.evaluate(SHOW, f"{TEXT} {'very ' * (i % 5)}bored") for i in range(options.rounds)]
        tokens = page.locator("section[aria-label='The text'] [data-index]").count()
        print(f"a text of about {tokens} tokens: {statistics.median(times):.0f} ms ({min(times):.0f} to {max(times):.0f})")
        browser.close()
    server.terminate()


if __name__ == "__main__":
    main()
