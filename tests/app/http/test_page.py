"""The playground in a real browser: what a person does with it, and that everybody can.

With CAROUSEL_PICTURES=FOLDER the pictures of the documentation are written there, of the models in `checkpoints/`.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from models.checkpoint.format import save_checkpoint
from tests.app.conftest import metric, serving
from tests.tiny import tiny_model, tiny_tokenizer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1100, "height": 900}
PANELS = ["Write", "Sample", "Score", "Model"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, client: httpx.Client) -> Iterator[Page]:
    """The page of the tiny models; nothing may be complained of, nothing asked from elsewhere."""
    yield from opened(browser, str(client.base_url))


def opened(browser: Browser, url: str, dark: bool = False, size: dict[str, int] = DESKTOP) -> Iterator[Page]:
    context = browser.new_context(color_scheme="dark" if dark else "light", viewport=size)  # type: ignore[arg-type]
    page = context.new_page()
    complaints: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith((url, "data:")) else complaints.append(asked.url))
    page.goto(url)
    expect(page.locator("#chips button").first).to_be_visible()
    yield page
    context.close()
    assert complaints == []


def choose(page: Page, model: str) -> None:
    page.get_by_label("Model").first.select_option(model)


@pytest.mark.parametrize("model", ["word", "char"])
def test_suggestions_are_taken_by_key_and_by_tap(page: Page, client: httpx.Client, model: str) -> None:
    choose(page, model)
    writing = page.locator("#writing")
    writing.press_sequentially("The c" if model == "word" else "the h")
    begun = writing.input_value()
    words = client.post("/next", json={"text": begun, "top": 3, "model": model}).json()["words"]
    first = words[0]["word"]
    expect(page.locator("#chips button").first).to_have_text(f"1{first}")
    writing.press("1")
    expect(writing).to_have_value(begun[: begun.rindex(" ") + 1] + first + " ")
    after = writing.input_value()
    following = client.post("/next", json={"text": after, "top": 3, "model": model}).json()["words"]
    expect(page.locator("#chips button").last).to_have_text(f"{len(following)}{following[-1]['word']}")
    page.locator("#chips button").last.click()
    expect(writing).to_have_value(after + following[-1]["word"] + " ")
    expect(writing).to_be_focused()


def test_a_suggestion_is_undone_as_typing_is(page: Page) -> None:
    writing = page.locator("#writing")
    writing.press_sequentially("The c")
    expect(page.locator("#chips button").first).to_have_text(re.compile("^1c"))
    writing.press("1")
    expect(writing).not_to_have_value("The c")
    writing.press("Control+z")
    expect(writing).to_have_value("The c")


def test_what_is_read_of_a_long_text_begins_at_the_same_place_for_a_while(page: Page) -> None:
    """So that the server need not read it anew at every word."""
    asked: list[str] = []
    page.on(
        "request", lambda one: asked.append((one.post_data_json or {})["text"]) if one.url.endswith("/next") else None
    )
    writing = page.locator("#writing")
    writing.fill("The cat sat. " * 700)
    for word in ("The", " cat", " sat"):
        writing.press_sequentially(word)
    expect(writing).to_have_value(re.compile("The cat sat$"))
    expect(page.locator("#chips button").first).to_be_visible()
    assert len(asked) > 3
    assert all(len(text) < 6100 for text in asked)
    assert {text[:4000] for text in asked} == {asked[0][:4000]}
    assert asked[0].startswith("The ") or asked[0].startswith(("cat ", "sat. "))


def test_digits_can_be_written(page: Page) -> None:
    writing = page.locator("#writing")
    page.get_by_label("keys 1, 2, 3 take a suggestion").uncheck()
    writing.press_sequentially("at 12")
    expect(writing).to_have_value("at 12")
    page.get_by_label("keys 1, 2, 3 take a suggestion").check()
    writing.press_sequentially("31")  # goes on with the number
    expect(writing).to_have_value("at 1231")


def test_a_sample_is_repeated_by_its_seed(page: Page) -> None:
    page.get_by_role("tab", name="Sample").click()
    page.get_by_label("Prompt").fill("The cat")
    page.get_by_label("Most tokens").fill("30")
    page.get_by_label("go on past the end").check()
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#sample-facts")).to_contain_text("30 tokens")
    text = page.locator("#sampled").inner_text()
    assert text.startswith("The cat")
    page.get_by_role("button", name="Keep this seed").click()
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#sample-facts")).to_contain_text("30 tokens")
    assert page.locator("#sampled").inner_text() == text


def test_stop_cancels_on_the_server(browser: Browser, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("word")  # a network that takes seconds for as many tokens as may be asked for
    slow = tiny_model(len(tokenizer), hidden_sizes=(1024, 1024))
    save_checkpoint(tmp_path / "slow", slow, tokenizer, about={})
    with serving(checkpoints=tmp_path, dtype="float32", threads=1) as client:
        for page in opened(browser, str(client.base_url)):
            page.get_by_role("tab", name="Sample").click()
            page.get_by_label("go on past the end").check()
            page.get_by_label("Most tokens").fill("4096")
            page.get_by_role("button", name="Generate").click()
            expect(page.locator("#sampled")).not_to_have_text("It was")
            assert metric(client, "carousel_num_requests_running", "slow") == 1
            page.get_by_role("button", name="Stop").click()
            expect(page.locator("#sample-facts")).to_contain_text("stopped")
            for _ in range(200):
                if metric(client, "carousel_num_requests_running", "slow") == 0:
                    break
                page.wait_for_timeout(25)
            assert metric(client, "carousel_requests_cancelled_total", "slow") >= 1
            assert metric(client, "carousel_generation_tokens_total", "slow") < 4096


def test_an_empty_field_is_no_sentence(page: Page) -> None:
    page.get_by_role("tab", name="Score").click()
    page.get_by_role("button", name="Add a sentence").click()
    for number, text in ((1, ""), (2, "The cat sat"), (3, "fish fish fish fish fish")):
        page.get_by_label(f"Sentence {number}").fill(text)
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#verdict")).to_contain_text("Sentence 2 wins by")


def test_an_older_comparison_is_given_up_for_a_newer_one(page: Page) -> None:
    page.get_by_role("tab", name="Score").click()
    held: list[Route] = []
    page.route("**/score", lambda route: held.append(route) if not held else route.continue_())
    compare = page.get_by_role("button", name="Compare")
    compare.click()
    page.get_by_label("Sentence 1").fill("The dog")
    with page.expect_event("requestfailed", lambda request: request == held[0].request):
        compare.click()
    expect(page.locator("article").first).to_contain_text("dog")
    choose(page, "char")
    expect(page.locator("article")).to_have_count(0)


def test_tokens_are_one_stop_and_arrow_keys_go_through_them(page: Page) -> None:
    page.get_by_role("tab", name="Score").click()
    page.get_by_role("button", name="Compare").click()
    tokens = page.locator("article").first.locator(".tokens button")
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(1)).to_be_focused()
    page.keyboard.press("End")
    expect(tokens.last).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("article").nth(1).locator(".tokens button").first).to_be_focused()


@pytest.mark.parametrize("model", ["word", "char"])
def test_sentences_are_compared_token_by_token(page: Page, client: httpx.Client, model: str) -> None:
    texts = ["The cat sat", "The cat xylophone"] if model == "word" else ["he sat", "he zat"]
    choose(page, model)
    page.get_by_role("tab", name="Score").click()
    for place, text in enumerate(texts):
        page.get_by_label(f"Sentence {place + 1}").fill(text)
    page.get_by_role("button", name="Compare").click()
    scores = client.post("/score", json={"text": texts, "tokens": True, "model": model}).json()
    expect(page.locator("#verdict")).to_contain_text(f"Sentence {scores['best'] + 1} wins by")
    shown = page.locator("article").nth(1).locator(".tokens button")
    details = scores["scores"][1]["details"]
    assert [text.strip() for text in shown.all_inner_texts()] == [
        d["text"].strip() or "⏎" for d in details
    ] or model == "char"
    assert page.locator("article .oov").count() == sum(score["oov"] for score in scores["scores"]) > 0
    shown.nth(1).focus()
    expect(page.locator("#token")).to_contain_text("probability")
    expect(page.locator("#token")).to_contain_text("The model's own first choices")


def test_an_error_is_told_and_goes_away(browser: Browser, client: httpx.Client) -> None:
    page = browser.new_page()  # its console says that a request was refused
    page.goto(f"{client.base_url}/#sample")
    page.get_by_label("Most tokens").fill("1000000")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_contain_text("max_tokens")
    expect(page.locator("#sample-facts")).to_have_text("failed")
    page.get_by_label("Most tokens").fill("5")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_be_hidden()
    page.close()


def test_the_model_is_described_and_its_figures_move(page: Page, client: httpx.Client) -> None:
    page.get_by_role("tab", name="Model").click()
    expect(page.locator("#card")).to_contain_text("A toy model.")
    expect(page.locator("#figures")).to_contain_text("tokens generated")
    generated = int(metric(client, "carousel_generation_tokens_total"))
    client.post("/generate", json={"max_tokens": 7, "ignore_eos": True})
    expect(page.locator("#figures")).to_contain_text(f"{generated + 7:,}", timeout=10_000)


def test_panels_are_reached_by_keyboard(page: Page) -> None:
    page.get_by_role("tab", name="Write").focus()
    for name in PANELS[1:]:
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("tab", name=name)).to_be_focused()
        expect(page.get_by_role("tabpanel", name=name)).to_be_visible()
    assert page.url.endswith("#about")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_everybody_can_use_it(browser: Browser, client: httpx.Client, dark: bool, size: dict[str, int]) -> None:
    for page in opened(browser, str(client.base_url), dark, size):
        page.locator("#writing").press_sequentially("The c")
        for name in PANELS:
            page.get_by_role("tab", name=name).click()
            if name == "Score":
                page.get_by_role("button", name="Compare").click()
                expect(page.locator("article")).to_have_count(2)
            found = Axe().run(page)
            serious = [fault for fault in found.response["violations"] if fault["impact"] in ("serious", "critical")]
            assert serious == [], found.generate_report()
            # Nothing sticks out to the side.
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_key_is_asked_for_where_the_server_wants_one(browser: Browser, checkpoints_dir: Path) -> None:
    with serving(checkpoints=checkpoints_dir, default_model="word", threads=1, api_keys="right") as client:
        page = browser.new_page()
        page.goto(str(client.base_url))
        page.get_by_label("API key").fill("right")
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#chips button").first).to_be_visible()
        expect(page.get_by_role("alert")).to_be_hidden()
        page.close()


@pytest.mark.skipif("CAROUSEL_PICTURES" not in os.environ, reason="pictures are made on request")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_pictures(browser: Browser, dark: bool, size: dict[str, int]) -> None:
    folder = Path(os.environ["CAROUSEL_PICTURES"])
    suffix = f"{'phone' if size is PHONE else 'desktop'}-{'dark' if dark else 'light'}"
    with serving(checkpoints=Path(__file__).parents[3] / "checkpoints") as client:
        for page in opened(browser, str(client.base_url), dark, size):
            page.locator("#writing").press_sequentially("It was a dark and stormy ni")
            expect(page.locator("#chips button").first).to_have_text(re.compile("^1ni"))
            page.screenshot(path=folder / f"write-{suffix}.png")
            page.get_by_role("tab", name="Sample").click()
            page.get_by_label("Prompt").fill("Cats average 15")
            page.get_by_label("Seed").fill("7")
            page.get_by_role("button", name="Generate").click()
            expect(page.locator("#sample-facts")).to_contain_text("tokens")
            page.screenshot(path=folder / f"sample-{suffix}.png")
            page.get_by_role("tab", name="Score").click()
            page.get_by_role("button", name="Compare").click()
            expect(page.locator("article")).to_have_count(2)
            page.locator("article .tokens button").nth(4).focus()
            page.screenshot(path=folder / f"score-{suffix}.png", full_page=True)
            page.get_by_role("tab", name="Model").click()
            expect(page.locator("#figures")).to_contain_text("tokens generated")
            page.screenshot(path=folder / f"about-{suffix}.png")


@pytest.mark.parametrize("prefix", ["", "/models"])
def test_the_viewer_shows_the_api_and_asks_it(browser: Browser, checkpoints_dir: Path, prefix: str) -> None:
    """All that it loads comes from the server itself, under its prefix."""
    with serving(checkpoints=checkpoints_dir, default_model="word", threads=1, root_path=prefix) as client:
        page, complaints = browser.new_page(), list[str]()
        base = f"{client.base_url}".rstrip("/") + prefix
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request", lambda asked: None if asked.url.startswith((base, "data:")) else complaints.append(asked.url)
        )
        page.goto(f"{base}/docs")
        health = page.locator(".opblock", has_text="/health")
        health.locator(".opblock-summary").click()
        health.get_by_role("button", name="Try it out").click()
        health.get_by_role("button", name="Execute").click()
        expect(health.locator(".live-responses-table tbody .response-col_status")).to_contain_text("200")
        page.close()
    assert complaints == []
