"""The page in a real browser: each view by mouse and by keyboard, without an error and without a request to another host."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.serving import serving

from minigpt.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, from the extra test")
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTHS = (1280, 390)
STOP = """() => new Promise((done) => {
  const timer = setInterval(() => {
    if (!document.querySelector(".story .token")) return;
    [...document.querySelectorAll("button")].find((button) => button.textContent === "Stop").click();
    clearInterval(timer);
    done();
  }, 1);
})"""
"Stops a story as soon as it has a token: the tiny model writes it in a fraction of a second."


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; the tests are skipped without it."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"needs a browser: {', '.join(NAMES)}")
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=path, args=arguments)
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Any, port: int) -> Iterator[Callable[..., Any]]:
    """`open_page("/inside")` opens a page. At the end, there must have been no error and no request to another host."""
    problems: list[str] = []
    contexts: list[Any] = []

    def open_(address: str, width: int = 1280, scheme: str = "light", origin: str | None = None) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        home = f"http://127.0.0.1:{port}" if origin is None else origin
        page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(f"{error}\n{error.stack}"))
        page.on("dialog", lambda dialog: problems.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: None if request.url.startswith((home, "data:")) else problems.append(request.url))
        page.goto(home + address)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert problems == []


def parameters(page: Any) -> dict[str, str]:
    """Return the parameters of the address, decoded."""
    return dict(page.evaluate("[...new URLSearchParams(location.search)]"))


READY = {
    "/write?prompt=Tom": "text=/tokens, .* bits/",
    "/inside": ".lens td",
    "/gradient": ".node.chosen",
    "/training": ".chart path.curve",
    "/tokens": ".merges + button",
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("address", READY)
def test_every_view_fits_and_shows_itself(open_page: Callable[..., Any], address: str, width: int) -> None:
    page = open_page(address, width, "dark" if width == 390 else "light")
    page.wait_for_selector(READY[address], state="attached")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("h1").count() == 1
    assert page.locator("nav a[aria-current=page]").get_attribute("href") == address.partition("?")[0]
    assert "tiny" in page.title() and page.locator("[role=alert]").all_text_contents() in ([], [""])
    unnamed = "[...document.querySelectorAll('input, select, textarea')].filter((x) => !x.labels.length && !x.ariaLabel).length"
    assert page.evaluate(unnamed) == 0


def test_writing_and_branches(open_page: Callable[..., Any]) -> None:
    page = open_page("/write")
    page.fill("#prompt", "Tom saw")
    page.fill("#set-max_new_tokens", "6")
    page.fill("#set-seed", "3")
    page.get_by_role("button", name="Write", exact=True).click()
    page.wait_for_selector("text=6 tokens have been written")
    assert {"prompt": "Tom saw", "seed": "3", "max_new_tokens": "6"}.items() <= parameters(page).items()
    story = page.locator(".story").inner_text()
    assert story.startswith("Tom saw") and page.locator(".story .token").count() == 6
    page.get_by_role("button", name="Continue").click()
    page.wait_for_selector("text=12 tokens have been written")
    assert page.locator(".story").inner_text().startswith(story)
    page.locator(".story .token").nth(2).click()
    assert page.locator(".choices li").count() == 10
    page.locator(".choices li:not(.actual) button").first.click()
    page.wait_for_selector(".tree .tree button[aria-current]")
    page.wait_for_selector("text=/^9 tokens, .* 6 tokens have been written/")
    assert page.locator(".story").inner_text()[: len("Tom saw") + 1] == story[: len("Tom saw") + 1]
    page.locator(".tree button").first.click()
    assert page.locator(".story .token").count() == 12
    page.locator("summary").click()
    assert page.locator(".command").inner_text().startswith("minigpt sample ")


def test_the_same_address_tells_the_same_story(open_page: Callable[..., Any]) -> None:
    stories = []
    for _ in range(2):
        page = open_page("/write?prompt=Mia&seed=5&max_new_tokens=8")
        page.wait_for_selector("text=8 tokens have been written")
        stories.append(page.locator(".story").inner_text())
    assert stories[0] == stories[1]
    page.locator("#time-slider").focus()
    page.keyboard.press("Home")
    page.wait_for_selector("text=/seed 5, step 0/")
    assert parameters(page)["step"] == "0"
    page.wait_for_selector("text=8 tokens have been written")
    assert page.locator(".story").inner_text() != stories[0]
    assert page.locator(".tree button").count() == 1  # the story has been written again, not another one


def test_the_stories_are_kept_while_other_views_are_shown(open_page: Callable[..., Any]) -> None:
    page = open_page("/write?prompt=&max_new_tokens=5&seed=1")
    page.wait_for_selector("text=/5 tokens have been written|the story has ended/")
    story = page.locator(".story").inner_text()
    assert (
        page.locator("code.command").text_content().startswith("minigpt sample")
        and "--prompt" not in page.locator(".command").text_content()
    )
    page.locator("a", has_text="Look inside its beginning").click()
    page.wait_for_selector(".lens td")
    assert story.startswith(parameters(page)["text"])
    page.get_by_role("link", name="Write").click()
    assert page.locator(".story").inner_text() == story


def test_the_focus_stays(open_page: Callable[..., Any]) -> None:
    page = open_page("/inside?text=Tom+saw")
    page.wait_for_selector(".lens td")
    switch = page.locator("[data-key='blocks.1.attention.heads.0']")
    switch.focus()
    for state in ("text=Switched off:", "text=bits per token"):
        page.keyboard.press("Space")
        page.wait_for_selector(state)
        page.wait_for_function("document.activeElement.dataset.key === 'blocks.1.attention.heads.0'")


def test_new_snapshots_appear(open_page: Callable[..., Any], tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("checkpoints", "step-0000[0-9][1-9]", "step-000060"))
    with serving(run) as port:
        page = open_page("/inside?text=Tom", origin=f"http://127.0.0.1:{port}")
        page.wait_for_selector(".lens td")
        before = page.locator(".facts").inner_text()
        assert not page.locator("#time-slider").is_visible()
        shutil.copytree(tiny_run / "snapshots" / "step-000060", run / "snapshots" / "step-000060")
        page.wait_for_selector("text=after step 60, the last one")
        page.wait_for_function("(text) => document.querySelector('.facts').innerText !== text", arg=before)


@pytest.mark.parametrize(
    "address",
    [
        "/inside?position=1.5&layer=-1&head=9&step=x",
        "/gradient?block=-1&node=x&target=0",
        "/training?axis=toString&step=-3",
    ],
)
def test_odd_addresses(open_page: Callable[..., Any], address: str) -> None:
    page = open_page("/tokens")
    with page.expect_response(re.compile("/api/(inside|gradient|training)")) as response:
        page.goto(page.url.replace("/tokens", address))
    assert response.value.ok
    page.wait_for_selector(".lens td, .node.chosen, .chart")


def test_a_story_can_be_stopped(open_page: Callable[..., Any]) -> None:
    page = open_page("/write?prompt=Mia&max_new_tokens=1000&temperature=2&top_k=0")
    page.evaluate(STOP)
    page.wait_for_selector("text=/; (stopped|the story has ended)/")


def test_looking_inside_by_mouse(open_page: Callable[..., Any]) -> None:
    page = open_page("/inside?text=Tom+saw+a+cat.")
    page.wait_for_selector(".lens td")
    page.locator("section[aria-label='The text'] .token").nth(4).click()
    assert parameters(page)["position"] == "5"
    page.wait_for_selector(".shares li")
    assert page.locator("section[aria-label='What the model expected'] p").inner_text().startswith("In the place of s")
    page.locator("[data-head='0.1']").click()
    assert page.locator("section[aria-label=Attention] h3").inner_text() == "Block 0, head 1"
    assert page.locator(".lines path").count() > 0
    before = page.locator(".facts b").first.inner_text()
    page.get_by_label("head 1 is on").last.click()
    page.wait_for_selector("text=Switched off:")
    page.wait_for_selector("text=With all parts, it is")
    assert parameters(page)["off"] == "blocks.0.attention.heads.1"
    assert page.locator(".facts b").last.inner_text() == before
    page.get_by_role("button", name="Switch on block 0, head 1").click()
    page.wait_for_selector("text=Switched off:", state="detached")
    page.locator(".lens td").nth(9).click()
    assert int(parameters(page)["position"]) >= 1
    page.locator("section[aria-label=Attention] .heat-frame").hover()
    assert re.match(r"At .*: .*% from ", page.locator("section[aria-label=Attention] .heat-line").inner_text())


def test_looking_inside_by_keyboard(open_page: Callable[..., Any]) -> None:
    page = open_page("/inside?text=Tom+saw+a+cat.&position=3")
    page.wait_for_selector(".lens td")
    page.locator("section[aria-label='The text'] .tokens").focus()
    page.keyboard.press("ArrowRight")
    assert parameters(page)["position"] == "4"
    page.keyboard.press("End")
    assert parameters(page)["position"] == "14"
    frame = page.locator("section[aria-label=Attention] .heat-frame")
    frame.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert parameters(page)["position"] == "1"
    head = page.locator("[data-head='1.1']")
    head.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-head='1.1'][aria-pressed=true]")
    page.locator(".term").first.focus()
    page.keyboard.press("Enter")
    assert page.locator(".note-popover:popover-open").count() == 1
    page.keyboard.press("Escape")
    assert page.locator(".note-popover:popover-open").count() == 0


def test_the_slider_moves_through_the_training(open_page: Callable[..., Any]) -> None:
    page = open_page("/inside?text=Tom")
    page.wait_for_selector(".lens td")
    trained = page.locator(".facts").inner_text()
    page.locator("#time-slider").focus()
    page.keyboard.press("Home")
    page.wait_for_function("(text) => document.querySelector('.facts').innerText !== text", arg=trained)
    assert parameters(page)["step"] == "0" and page.locator("#time output").inner_text() == "after step 0"
    page.get_by_role("link", name="Training").click()
    page.wait_for_selector(".chart .at", state="attached")
    page.get_by_role("link", name="Follow the gradient").click()
    page.wait_for_selector(".node")
    assert parameters(page) == {"text": "Tom", "step": "0"}
    page.go_back()
    page.wait_for_selector(".chart")
    assert page.locator("h1").inner_text() == "Training"


def test_following_the_gradient_to_a_number(open_page: Callable[..., Any]) -> None:
    page = open_page("/gradient?text=Tom+saw")
    page.wait_for_selector(".node.chosen")
    page.locator(".tokens .token").nth(2).click()
    page.wait_for_selector("text=/The loss of “m” is/")
    page.locator(".node", has_text="queries").click()
    page.wait_for_selector(".node-panel h2:has-text('Linear layer')")
    assert page.locator(".formula math").count() == 2
    page.locator("summary", has_text="linear_backward").click()
    assert "dweight = np.matmul(x.T, dy" in page.locator("details[open] pre").inner_text()
    page.locator(".chip", has_text="qkv.weight").click()
    page.wait_for_selector("text=rows are inputs")
    for _ in range(4):
        if page.locator(".numbers").count():
            break
        page.locator(".node-panel .heat-frame").first.click()
        page.wait_for_selector("text=/rows \\d+ to|numbers/")
        page.wait_for_timeout(300)
    page.locator(".numbers button").nth(5).click()
    page.wait_for_selector(".proof > p > b")
    change, said = page.locator(".proof > p > b").all_inner_texts()
    assert change[:3] == said[:3]
    page.locator("summary", has_text="Its moments").click()
    page.wait_for_selector("text=If this text were the next batch, Muon")
    page.get_by_role("button", name="Zoom out").click()
    page.wait_for_selector("text=If this text were the next batch, Muon")


def test_the_diagram_by_keyboard(open_page: Callable[..., Any]) -> None:
    page = open_page("/gradient?text=Tom&node=blocks.{i}.attention.weights&block=1")
    page.wait_for_selector(".node.chosen")
    page.locator("[data-key='blocks.1.attention.scores']").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("h2:has-text('Attention scores')")
    page.locator("[data-key=block-0]").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-key='blocks.0.attention.scores']")
    page.locator("select").first.select_option("1")
    page.wait_for_selector(".numbers")
    page.locator(".numbers button").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".proof > p > b")


def test_tokens(open_page: Callable[..., Any]) -> None:
    page = open_page("/tokens?text=Zo%C3%AB")
    page.wait_for_selector("text=4 tokens for 4 bytes")
    page.fill("#tokens-text", "Tom")
    page.wait_for_selector("text=3 tokens for 3 bytes")
    assert page.locator("tbody tr td").nth(2).inner_text() == "54"
    page.wait_for_selector("text=This tokenizer has no merges")


def test_questions_that_fail_are_shown(open_page: Callable[..., Any], port: int, browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{port}/inside?text={'x' * 99}")
    page.wait_for_selector("text=the text has 99 tokens, but must have from 1 to 15")
    page.fill("#text", "Tom")
    page.wait_for_selector(".lens td")
    assert page.locator(".error").inner_text() == ""
    page.goto(f"http://127.0.0.1:{port}/inside?off=foo")
    page.wait_for_selector("text=/off has 'foo'/")
    page.locator(".chip", has_text="foo").click()
    page.wait_for_selector(".lens td")
    page.close()


def test_hostile_names_and_texts_stay_text(open_page: Callable[..., Any], hostile_run: Path) -> None:
    with serving(hostile_run) as port:
        origin = f"http://127.0.0.1:{port}"
        for address in ("/training", "/inside", "/write?prompt=%3Cscript%3Ealert(1)%3C/script%3E&max_new_tokens=3"):
            page = open_page(address, origin=origin)
            page.wait_for_selector("text=<img src=x onerror=alert(1)>")
            page.wait_for_selector("text=/<script>/")
            assert page.locator("main script, main img").count() == 0
            page.close()


def test_the_story_in_a_report(open_page: Callable[..., Any], tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    write_report(run)
    for width in WIDTHS:
        page = open_page("/report.html", width, origin=run.as_uri())
        page.wait_for_selector("#story .lens td")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        trained = page.locator("#story .facts").inner_text()
        page.locator("#story-time").focus()
        page.keyboard.press("Home")
        page.wait_for_function("(text) => document.querySelector('#story .facts').innerText !== text", arg=trained)
        page.locator("#story .tokens .token").nth(3).click()
        assert page.locator("#story .bars li").count() > 10
        page.locator("#story [data-head='0.1']").click()
        assert page.locator("#story h3").first.inner_text() == "Block 0, head 1"
