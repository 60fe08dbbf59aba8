"""How long a suggestion takes while somebody types in the page, in a real browser.

    make serve
    python -m benchmarks.typing_latency [--url http://127.0.0.1:8000] [--keys-per-second 10]

Chromium has to be installed; `pip install playwright` is enough for the rest.
"""

import shutil
from statistics import median
from typing import Annotated

import typer
from playwright.sync_api import sync_playwright

TEXT = (
    "It was getting late when the old man came down from the hill, and the lamps in the village had been lit one after "
    "the other. Nobody spoke to him. He went straight to the inn, sat down by the window and asked for bread. "
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
DURATIONS = (
    "performance.getEntriesByType('resource').filter(one => one.name.endsWith('/next')).map(one => one.duration)"
)


def main(
    url: Annotated[str, typer.Option(help="Where the service listens.")] = "http://127.0.0.1:8000",
    keys_per_second: Annotated[float, typer.Option(help="Speed of typing.")] = 10.0,
    chromium: Annotated[str, typer.Option(help="The browser's command.")] = "chromium",
) -> None:
    """Type a text; the browser's own times from request to the end of the answer."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which(chromium), args=FLAGS)
        page = browser.new_page()
        page.goto(url)
        page.locator("#chips button").first.wait_for()
        page.evaluate("performance.setResourceTimingBufferSize(10000); performance.clearResourceTimings()")
        page.locator("#writing").press_sequentially(TEXT, delay=1000 / keys_per_second)
        page.wait_for_timeout(500)
        found = sorted(page.evaluate(DURATIONS))
        browser.close()
    last = found[int(0.95 * len(found))]
    print(f"{len(TEXT)} keys, {len(found)} answers: median {median(found):.1f} ms, 95th percentile {last:.1f} ms")  # noqa: T201


if __name__ == "__main__":
    typer.run(main)
