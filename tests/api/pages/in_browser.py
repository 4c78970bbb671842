"""Uses the pages in Debian's Chromium as people do; `test_browser.py` runs it.

    python in_browser.py GATEWAY ADMIN KEY AXE PROCESS CODE [SCREENSHOTS]

The gateway asks for KEY and scales one pool of two replicas; PROCESS is the one that hangs for a
while. What the page gives as code is written into the folder CODE.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from pathlib import Path

from playwright.sync_api import ConsoleMessage, Page, expect, sync_playwright

GATEWAY, ADMIN, KEY, AXE, PROCESS, CODE = sys.argv[1:7]
SCREENSHOTS = Path(sys.argv[7]) if len(sys.argv) > 7 else None
DEADLINE_MS = 90_000

# A colour halfway through a CSS transition belongs to neither state of a control.
TRANSITIONS_OVER = """Promise.allSettled(
    document.getAnimations()
        .filter((each) => each.effect.getComputedTiming().endTime < Infinity)
        .map((each) => each.finished))"""


def accessible(page: Page) -> None:
    """axe-core, the checker of most accessibility tools, has nothing to say."""
    page.evaluate(Path(AXE).read_text(encoding="utf-8"))
    page.evaluate(TRANSITIONS_OVER)
    found = page.evaluate("axe.run()")["violations"]
    assert not found, [(each["id"], each["nodes"][0]["html"]) for each in found]


def pictured(page: Page, name: str) -> None:
    if SCREENSHOTS is not None:
        page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def watched(page: Page) -> list[str]:
    """What goes wrong in the page; that a key is asked for, and an order refused, is told too."""
    troubles: list[str] = []

    def note(said: ConsoleMessage) -> None:
        if said.type == "error" and not re.search("status of 40[01]", said.text):
            troubles.append(said.text)

    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", note)
    return troubles


def by_keyboard(page: Page) -> None:
    """From the top of the page to an answer and through its cells, without a mouse."""
    expect(page.locator("#said")).to_contain_text("key")
    page.keyboard.type(KEY)  # it has the focus when a key is asked for
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text("9 texts")
    expect(page.locator("#ranked tbody tr").first).to_contain_text("Great Wall of China")
    page.locator("#full").focus()
    for pressed in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(pressed)
    expect(page.locator("#cell")).to_contain_text("row 3, column 3")
    expect(page.locator("#cell")).to_contain_text("What do bees make?")


def every_control(page: Page) -> None:
    page.locator("#chosen").select_option("2")
    expect(page.locator("#ranked tbody tr").first).to_contain_text(re.compile("honey|蜜"))
    page.locator("#dimensions").fill("64")
    expect(page.locator("#cut-title")).to_contain_text("64 dimensions")
    expect(page.locator("#sent")).to_contain_text('"dimensions": 64')
    forms = page.locator("#form option").all_inner_texts()
    for form in forms:
        page.locator("#form").select_option(form)
        expect(page.locator("#cut-title")).to_contain_text(form)
    page.locator("#form").select_option("float")
    page.locator("#instruction").fill("Given a question, find its answer")
    page.locator("#embed").click()
    expect(page.locator("#sent")).to_contain_text("find its answer")
    for form in ("int8", "float"):
        page.locator("#form").select_option(form)
        for kind in ("curl", "python", "client", "node"):
            page.locator("#code-kind").select_option(kind)
            expect(page.locator("#code")).to_contain_text(GATEWAY)
            code = page.locator("#code").inner_text()
            (Path(CODE) / f"{kind}-{form}").write_text(code, encoding="utf-8")
    page.locator("#copy").click()
    expect(page.locator("#said")).to_contain_text("Copied")
    assert KEY not in page.content()
    assert page.evaluate("Object.keys(localStorage).length + document.cookie.length") == 0
    page.locator("#language").click()
    expect(page.locator("h1")).to_contain_text("试验台")
    accessible(page)
    pictured(page, "playground-zh")
    page.locator("#language").click()
    expect(page.locator("h1")).to_contain_text("playground")


def long_words(page: Page) -> None:
    """A model's name and a document without a space leave the page within a telephone's width."""
    whole = page.viewport_size
    assert whole is not None
    page.locator("#model option").first.evaluate(
        "(option) => { option.value = option.value; option.textContent = 'name/'.repeat(60); }"
    )
    page.locator("#documents").fill("word" * 200 + "\n短\nقصير")
    page.locator("#embed").click()
    expect(page.locator("#ranked tbody tr")).to_have_count(3)
    beyond = "(element) => element.scrollWidth - element.clientWidth"
    assert page.locator(".wide:has(#ranked)").evaluate(beyond) == 0
    page.set_viewport_size({"width": 380, "height": 800})
    assert page.locator("html").evaluate(beyond) == 0
    page.set_viewport_size(whole)


def thousands(page: Page) -> None:
    """5,000 texts; meanwhile the page goes on drawing."""
    page.evaluate(
        """() => {
            window.drawn = 0;
            const frame = () => {
                drawn += 1;
                requestAnimationFrame(frame);
            };
            requestAnimationFrame(frame);
        }"""
    )
    many = "\n".join(f"Document number {each}." for each in range(5000))
    page.locator("#documents").evaluate("(element, text) => { element.value = text; }", many)
    page.locator("#embed").click()
    expect(page.locator("#said")).to_contain_text("5003 texts", timeout=6 * DEADLINE_MS)
    expect(page.locator("#agreement")).to_contain_text("200 columns")
    assert page.evaluate("drawn") > 5, "the page stood still until its last answer"
    expect(page.locator("#embed")).to_be_enabled()
    page.locator("#instruction").fill("Asked otherwise, so that nothing of it is known")
    page.evaluate(
        "document.getElementById('embed').click(); document.getElementById('stop').click()"
    )
    expect(page.locator("#said")).to_contain_text("Stopped")


def by_telephone(page: Page) -> None:
    """Every replica's button is within the width of a telephone, and nothing has to be scrolled."""
    whole = page.viewport_size
    assert whole is not None
    page.set_viewport_size({"width": 360, "height": 800})
    for box in page.locator("html, .stacked").all():
        assert box.evaluate("(element) => element.scrollWidth - element.clientWidth") == 0
    for button in page.get_by_role("button", name="Drain").all():
        place = button.bounding_box()
        assert place is not None
        assert place["x"] + place["width"] <= 360
    accessible(page)
    page.set_viewport_size(whole)


def between_looks(page: Page) -> None:
    """What is selected or focused stays while the page draws itself anew."""
    selected = "String(getSelection())"
    page.evaluate("getSelection().selectAllChildren(document.querySelector('td.long'))")
    address = page.evaluate(selected)
    assert address.startswith("http://")
    page.get_by_role("button", name="Drain local-1").focus()
    rates = page.locator("figcaption")
    for turn in range(DEADLINE_MS // 2500):  # the cache is asked between looks, as late as they are
        page.request.post(
            f"{GATEWAY}/v1/embeddings",
            headers={"authorization": f"Bearer {KEY}"},
            data={"model": "builtin", "input": "What do bees make?"},
        )
        page.wait_for_timeout(2500)
        if turn >= 2 and rates.is_visible():
            break
    expect(rates).to_contain_text("Hit rate of the cache")
    assert page.evaluate(selected) == address, "a look took away what was selected"
    expect(page.get_by_role("button", name="Drain local-1")).to_be_focused()
    page.evaluate("getSelection().removeAllRanges()")


def refused_order(page: Page) -> None:
    """Its reason stays while the page draws itself anew."""
    page.get_by_role("button", name="Set replicas").click()
    page.locator("#order-count").fill("250")
    page.get_by_role("button", name="Confirm").click()
    expect(page.locator("#refused")).to_contain_text("250 replicas")
    with page.expect_response("**/fleet"), page.expect_response("**/autoscaling"):
        pass
    expect(page.locator("#refused")).to_contain_text("250 replicas")


def the_fleet(page: Page) -> None:
    page.goto(ADMIN)
    ready = page.locator("td.good", has_text="ready")
    expect(ready).to_have_count(2)
    expect(page.locator("main")).to_contain_text("Pause scaling")
    expect(page.locator("main")).not_to_contain_text("undefined")
    accessible(page)
    page.get_by_role("button", name="Pause scaling").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("button", name="Pause scaling")).to_be_visible()
    page.get_by_role("button", name="Pause scaling").click()
    page.get_by_role("button", name="Confirm").click()
    page.get_by_role("button", name="Resume scaling").click()
    page.get_by_role("button", name="Confirm").click()
    expect(page.get_by_role("button", name="Pause scaling")).to_be_visible()
    page.get_by_role("button", name="Set replicas").click()
    page.locator("#order-count").fill("2")
    page.get_by_role("button", name="Confirm").click()
    expect(page.locator("main")).to_contain_text("pinned")
    page.get_by_role("button", name="Drain local-1").click()
    page.get_by_role("button", name="Confirm").click()
    expect(page.locator("td", has_text="draining")).to_have_count(1)
    expect(page.locator("main")).to_contain_text("it was drained by an operator")
    accessible(page)
    pictured(page, "fleet-drained")
    page.get_by_role("button", name="Drain local-0").click()
    expect(page.locator("#order-words")).to_contain_text("only ready replica")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Readmit local-1").click()
    page.get_by_role("button", name="Confirm").click()
    expect(ready).to_have_count(2)
    by_telephone(page)
    between_looks(page)
    accessible(page)
    pictured(page, "fleet")
    refused_order(page)
    # Stopped, not killed: a killed one may be back before the page looks again.
    os.kill(int(PROCESS), signal.SIGSTOP)
    expect(ready).not_to_have_count(2)  # seen without a reload
    with contextlib.suppress(ProcessLookupError):  # the supervisor may have replaced it
        os.kill(int(PROCESS), signal.SIGCONT)
    expect(ready).to_have_count(2)


def the_api(page: Page) -> None:
    """The document shown, and an operation tried with the key; nothing is asked elsewhere."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{GATEWAY}/docs")
    page.locator("#key").fill(KEY)
    page.locator("#key").press("Enter")
    operation = page.locator("#operations-Embeddings-createEmbedding")
    expect(operation).to_be_visible()
    expect(page.locator("#about")).to_contain_text("2048 texts")
    accessible(page)
    scheme = "dark" if page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") else ""
    pictured(page, f"api-{scheme}" if scheme else "api")
    operation.locator(".opblock-summary-control").press("Enter")
    operation.get_by_role("button", name="Try it out").press("Enter")
    operation.get_by_role("button", name="Execute").press("Enter")
    expect(operation.locator(".live-responses-table .response")).to_contain_text('"embedding"')
    accessible(page)
    pictured(page, "api-tried")
    page.locator("#language").click()
    expect(page.locator("h2").first).to_contain_text("接口")
    page.locator("#language").click()
    assert page.evaluate("Object.keys(localStorage).length + document.cookie.length") == 0
    assert {url for url in asked if not url.startswith((GATEWAY, "data:", "blob:"))} == set()


def main() -> None:
    expect.set_options(timeout=DEADLINE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        for scheme in ("dark", "light"):
            context = browser.new_context(
                locale="en-US",
                color_scheme=scheme,
                permissions=["clipboard-write", "clipboard-read"],
            )
            context.set_default_timeout(DEADLINE_MS)
            page = context.new_page()
            troubles = watched(page)
            page.goto(GATEWAY)
            by_keyboard(page)
            accessible(page)
            pictured(page, f"playground-{scheme}")
            if scheme == "light":
                every_control(page)
                thousands(page)
                long_words(page)
                the_fleet(page)
            the_api(page)
            assert not troubles, troubles
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
