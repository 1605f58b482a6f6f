"""The explorer as a reader has it: a page from a file, in a real browser, wide and narrow, light, dark and on paper."""

from pathlib import Path

import numpy as np
import pytest
import tinyexplorer

from knnlm.artifacts import npy
from knnlm.corpora import vocab
from knnlm.datastores import neighbors
from knnlm.live import layout
from knnlm.scores import knn

SIZES = {"desktop": (1366, 820), "phone": (390, 844)}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return tinyexplorer.write(tmp_path_factory.mktemp("results") / "tiny")


@pytest.fixture(scope="module")
def page_path(study):
    return tinyexplorer.page(study)


@pytest.fixture(scope="module")
def with_unknown(page_path):
    """The page of a text that has <unk> in place of one of its words."""
    changed = page_path.with_name("unknown.html")
    changed.write_text(page_path.read_text().replace('"lazy"', r'"\u003cunk\u003e"'))
    return changed


@pytest.fixture
def open_page(browser):
    """A function that opens a page; when the test is over, the browser must have had nothing to complain of."""
    complaints: list[str] = []
    opened = []

    def open_(path: Path, address: str = "", size: tuple[int, int] = SIZES["desktop"], scheme: str = "light"):
        page = browser.new_page(viewport=dict(zip(("width", "height"), size, strict=True)), color_scheme=scheme)
        opened.append(page)
        page.on("console", lambda told: complaints.append(told.text) if told.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri() + address)
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_
    for page in opened:
        page.close()
    assert complaints == []


@pytest.fixture(params=SIZES.values(), ids=SIZES)
def page(request, open_page, page_path):
    return open_page(page_path, size=request.param)


def chosen(page) -> int:
    return int(page.locator("#text .chosen").get_attribute("data-i"))


def test_every_token_stands_there_and_nothing_is_wider_than_the_screen(page, study):
    stream = npy.open_array(layout.find(study).tokens("fox", "dev"))
    assert page.locator("#text span").count() == len(stream)
    assert page.locator("#text").inner_text().count("</script><b>&amp;") > 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_click_shows_neighbors_and_top_words(page, study):
    page.locator("#text span").nth(50).click()
    assert chosen(page) == 50
    assert page.locator("#panel .neighbors li").count() == 4
    assert page.locator("#panel .neighbors mark").count() == 4
    assert page.locator("#panel .tops ol").count() == 3
    first = page.locator("#panel .tops div").nth(1).locator("li").first.inner_text().split("\n")
    words, shares = explore_words(study, 50)
    assert float(first[-1]) == pytest.approx(shares[0], abs=0.006)
    assert first[0] == words[0]


def explore_words(study: Path, position: int) -> tuple[list[str], np.ndarray]:
    source = layout.find(study)
    found = neighbors.load(source.neighbors("dev"))
    words, shares = knn.distribution(found.stored("exact")[position], found.values[position])
    return vocab.load(source.vocab).tokens(words.tolist()), shares


def test_the_slider_recomputes_the_mixture(page, study):
    source = layout.find(study)
    lm, near = (npy.open_array(path).astype(float) for path in (source.lm("dev"), source.knn("dev")))
    page.locator("#lambda").fill("0.4")
    page.wait_for_function("document.getElementById('lambda-value').textContent === '0.40'")
    expected = np.exp(-np.log(0.6 * np.exp(lm) + 0.4 * np.exp(near)).mean())
    assert float(page.locator("#ppl-mix").inner_text()) == pytest.approx(expected, rel=1e-3)
    assert float(page.locator("#ppl-lm").inner_text()) == pytest.approx(np.exp(-lm.mean()), rel=1e-3)
    page.locator("#tuned").click()
    page.wait_for_function(f"document.getElementById('lambda').value == {source.lmbda:.2f}")


def color(page, i: int) -> str:
    return page.evaluate(f"getComputedStyle(document.querySelectorAll('#text span')[{i}]).backgroundColor")


def test_colors_switch(page):
    before = color(page, 10)
    for number, name in enumerate(("gain of kNN-LM", "p kNN", "p LM", "p cache"), start=1):
        page.keyboard.press(str(number))
        assert page.locator("#modes [aria-checked=true]").inner_text() == name
        assert page.locator("#text").get_attribute("data-mode") == ("gain" if number == 1 else "chance")
    page.locator("#modes button").first.click()
    assert color(page, 10) == before


@pytest.mark.parametrize("font", ["14px monospace", "17px serif", "23px sans-serif"])
def test_a_line_down_and_up_again_leads_back_whatever_the_font(page, font):
    page.add_style_tag(content=f"#text {{ font: {font} }}")
    for start in (45, 60, 75):
        page.locator("#text span").nth(start).click()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        assert chosen(page) > start
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowUp")
        assert chosen(page) == start


def test_the_page_works_from_the_keyboard(page):
    page.locator("#text span").nth(60).click()
    page.keyboard.press("ArrowRight")
    assert chosen(page) == 61
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    assert chosen(page) > 60
    page.keyboard.press("ArrowUp")
    assert chosen(page) == 60
    page.keyboard.press("]")
    page.keyboard.press("b")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()


def test_search_finds_words_in_order(page):
    page.keyboard.press("/")
    page.keyboard.type("fox")
    found = page.locator("#text .match").count()
    assert found and f"{found} found" in page.locator("#matches").text_content()
    page.keyboard.press("Enter")
    first = chosen(page)
    page.keyboard.press("Enter")
    assert page.locator("#text .chosen").inner_text() == "fox" and chosen(page) != first
    page.locator("#text").focus()
    page.keyboard.press("N")
    assert chosen(page) == first


@pytest.mark.parametrize("where", ["#query", "#text"])
def test_escape_clears_the_search_entirely(page, where):
    page.locator("#query").fill("fox")
    page.locator(where).focus()
    page.keyboard.press("Escape")
    assert page.locator("#text .match").count() == 0
    assert page.locator("#query").input_value() == page.locator("#matches").text_content() == ""
    assert page.evaluate("document.activeElement.id") != "query"
    before = chosen(page)
    page.keyboard.press("n")  # no match is left to go to, and the key is not typed into the search
    assert chosen(page) == before and page.locator("#query").input_value() == ""


# Contrast

CONTRAST = """() => {
  const parse = (color) => (color.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const over = ([r, g, b], [r2, g2, b2], alpha) => [r, g, b].map((x, k) => alpha * x + (1 - alpha) * [r2, g2, b2][k]);
  const light = (c) => {
    const [r, g, b] = c.map((x) => x / 255).map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const layer = (element, under) => {
    const style = getComputedStyle(element), [r, g, b, a = 1] = parse(style.backgroundColor);
    return over([r, g, b], under, a * Number(style.opacity));
  };
  const behind = (stack) => stack.toReversed().reduce((under, element) => layer(element, under), [255, 255, 255]);
  const found = [], seen = [];
  const judge = (element, color, under, text) => {
    const [r, g, b, a = 1] = parse(color), value = ratio(over([r, g, b], under, a), under);
    seen.push(text);
    if (value < 4.5) found.push(`${element.tagName} ${element.className} ${text}: ${value.toFixed(2)}`);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim() || parent.closest("script, style, select")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const { left, right, top, bottom } of range.getClientRects()) {
      for (const x of [left + 1, (left + right) / 2, right - 1]) {
        const stack = document.elementsFromPoint(x, (top + bottom) / 2);
        if (stack[0] === parent) judge(parent, getComputedStyle(parent).color, behind(stack), node.data.trim());
      }
    }
  }
  for (const control of document.querySelectorAll("select, input[type=search]")) {
    const { left, top, width, height } = control.getBoundingClientRect();
    const stack = document.elementsFromPoint(left + width / 2, top + height / 2);
    if (!stack.includes(control)) continue;
    judge(control, getComputedStyle(control).color, behind(stack), control.id);
    const { color } = getComputedStyle(control, "::placeholder");
    if (control.placeholder) judge(control, color, behind(stack), "placeholder");
  }
  return { found, seen };
}"""
STATES = {
    "gain": ("", ""),
    "chance": ("", "2"),
    "helps": ("", "h"),
    "hurts": ("#t=1&lambda=1&row=knn", "H"),
    "pair": ("#t=20&row=t3&against=quantized", ""),
    "faults": ("#t=0&lambda=2&row=owl", "?"),
    "search": ("", "u"),
}


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("look", ["light", "dark", "print", "print-dark"])
def test_every_text_has_a_contrast_of_four_and_a_half_or_more(open_page, with_unknown, look, width):
    """All of the page is in a window of 6000 pixels; the shades of tokens are set in turn, so that each occurs."""
    for name, (address, keys) in STATES.items():
        page = open_page(with_unknown, address, (width, 6000), "dark" if "dark" in look else "light")
        if keys:
            page.keyboard.press(keys)
        if name == "search":
            page.locator("#query").fill("fox")
        page.wait_for_timeout(50)
        shades = 11 if page.locator("#text").get_attribute("data-mode") == "gain" else 7
        page.evaluate(
            f"document.querySelectorAll('#text span').forEach((span, i) => (span.dataset.s = (i >> 1) % {shades}))"
        )
        if look.startswith("print"):
            page.emulate_media(media="print", color_scheme="dark" if "dark" in look else "light")
        result = page.evaluate(CONTRAST)
        assert result["found"] == [], name
        assert len(result["seen"]) > 3 * page.locator("#text span").count()
        panel = {"helps": "Where kNN helps most", "hurts": "no neighbor has this word", "pair": "quantized"}
        assert panel.get(name, "fox") in " ".join(result["seen"])
        if not look.startswith("print"):
            assert {"placeholder", "query"} <= set(result["seen"])
        page.close()


def test_the_measure_of_contrast_finds_a_pale_word(open_page, page_path):
    page = open_page(page_path, size=(1400, 6000))
    page.add_style_tag(content="#text h2 { color: #999 }")
    found = page.evaluate(CONTRAST)["found"]
    assert found and all(fault.startswith("H2") and fault.endswith("2.85") for fault in found)


def luminance(page, selector: str) -> float:
    red, green, blue = page.evaluate(
        f"getComputedStyle(document.querySelector('{selector}')).backgroundColor.match(/[\\d.]+/g).map(Number)"
    )[:3]
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_the_page_is_dark_where_the_reader_wants_it_and_light_on_paper(open_page, page_path, size):
    assert luminance(open_page(page_path, size=size), "body") > 0.9
    dark = open_page(page_path, size=size, scheme="dark")
    assert luminance(dark, "body") < 0.2 and luminance(dark, "header") < 0.2
    dark.emulate_media(media="print", color_scheme="dark")
    assert luminance(dark, "body") > 0.9
    assert not dark.locator(".controls").is_visible() and not dark.locator(".tabs").is_visible()
    text, panel = (dark.locator(part).bounding_box() for part in ("#text", "#panel"))
    assert panel["y"] + panel["height"] <= text["y"] and panel["width"] == text["width"]


# The address


def test_the_address_names_the_token_lambda_and_the_row(open_page, page_path):
    page = open_page(page_path, "#t=51&lambda=0.2&row=t3")
    assert chosen(page) == 50
    assert page.locator("#lambda").input_value() == "0.2" and page.locator("#row").input_value() == "t3"
    assert page.locator("#notice").is_hidden()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("location.hash === '#t=52&lambda=0.2&row=t3'")
    page.keyboard.press("0")  # the tuned λ is not named
    page.wait_for_function("location.hash === '#t=52&row=t3'")
    page.locator("#against").select_option("quantized")
    page.wait_for_function("location.hash === '#t=52&row=t3&against=quantized'")
    again = open_page(page_path, page.evaluate("location.hash"))
    assert chosen(again) == 51 and again.locator("#against").input_value() == "quantized"
    assert again.locator("#details").inner_text() == page.locator("#details").inner_text()


def test_moving_adds_nothing_to_the_browsers_history(open_page, page_path):
    page = open_page(page_path)
    before = page.evaluate("history.length")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        page.wait_for_function(f"location.hash.startsWith('#t={chosen(page) + 1}&')")
    assert page.evaluate("history.length") == before


def test_another_address_in_the_same_window_is_followed(open_page, page_path, study):
    page = open_page(page_path, "#t=3&lambda=0.9&row=knn")
    page.evaluate("location.hash = '#t=77&row=quantized'")
    page.wait_for_selector("#text span[data-i='76'].chosen")
    tuned = layout.find(study, "temperature", "quantized").lmbda
    page.wait_for_function(f"document.getElementById('lambda-value').textContent === '{tuned:.3f}'")


@pytest.mark.parametrize(
    "address, told",
    [
        ("#t=0", "t=0: expected a token from 1 to"),
        ("#t=999999", "t=999999: expected a token from 1 to"),
        ("#t=fox", "t=fox: expected a token from 1 to"),
        ("#t=5&lambda=1.5", "lambda=1.5: expected a number from 0 to 1"),
        ("#t=5&lambda=", "lambda=: expected a number from 0 to 1"),
        ("#t=5&row=owl", "row=owl: no such row, expected one of knn, t3, quantized, lost"),
        ("#t=5&against=<b>owl</b>", "against=<b>owl</b>: no such row, expected lm or one of knn"),
        ("#t=5&color=red", "color: expected row, against, lambda, t"),
        ("#t=%E0%A4%A&lambda=NaN", "lambda=NaN: expected a number from 0 to 1; t="),
    ],
)
def test_what_the_address_has_wrong_is_ignored_with_a_line(open_page, page_path, study, address, told):
    page = open_page(page_path, address)
    assert told in page.locator("#notice").inner_text()
    assert page.locator("#notice b").count() == 0
    assert page.locator("#row").input_value() == "knn"
    page.wait_for_function(f"document.getElementById('lambda-value').textContent === '{layout.find(study).lmbda:.3f}'")
    if address.startswith("#t=5"):
        assert chosen(page) == 4
    page.keyboard.press("ArrowRight")
    assert page.locator("#notice").is_hidden()


# Where kNN helps and hurts; rows side by side


def logprobs(study: Path, lmbda: float | None = None, output: str = "table1", name: str = "knn") -> tuple:
    """log p of the LM and of a row's mixture, at its tuned λ unless one is given, of each token."""
    source = layout.find(study, output, name)
    lm, near = (npy.open_array(path).astype(float) for path in (source.lm("dev"), source.knn("dev")))
    weight = source.lmbda if lmbda is None else lmbda
    with np.errstate(divide="ignore"):
        return lm, np.log((1 - weight) * np.exp(lm) + weight * np.exp(near))


def listed(page) -> list[int]:
    return [int(button.get_attribute("data-i")) for button in page.locator(".extremes button").all()]


@pytest.mark.parametrize("view, sign", [("helps", 1), ("hurts", -1)])
@pytest.mark.parametrize("lmbda", [0.2, 0.7])
def test_lists_are_of_the_largest_gains_and_lead_to_their_tokens(open_page, page_path, study, view, sign, lmbda):
    page = open_page(page_path, f"#t=1&lambda={lmbda}&row=knn", SIZES["phone" if sign > 0 else "desktop"])
    page.locator(f"[data-view={view}]").click()
    lm, mixed = logprobs(study, lmbda)
    shown = page.locator("#text span").all_inner_texts()
    of_words = [i for i, word in enumerate(shown) if any(map(str.isalpha, word)) and not word.startswith("<")]
    expected = sorted(of_words, key=lambda i: -sign * (mixed[i] - lm[i]))[:50]
    expected = [i for i in expected if sign * (mixed[i] - lm[i]) > 0]
    gains = lambda positions: [(mixed - lm)[i] for i in positions]  # noqa: E731
    assert gains(listed(page)) == pytest.approx(gains(expected), abs=1e-5)
    third = listed(page)[2]
    assert shown[third] in page.locator(".extremes li").nth(2).inner_text()
    page.locator(".extremes button").nth(2).click()
    assert chosen(page) == third and page.locator("#details h2").inner_text() == shown[third]
    page.locator(f"[data-view={view}]").click()
    assert page.locator(".extremes [aria-current]").get_attribute("data-i") == str(third)


def test_lists_are_reached_and_used_by_keys(page):
    page.keyboard.press("H")
    second = listed(page)[1]
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert chosen(page) == second


def test_two_rows_stand_side_by_side(page, study):
    page.locator("#row").select_option("quantized")
    page.locator("#against").select_option("t3")
    page.wait_for_selector(".side:nth-child(2)")
    lm, ours = logprobs(study, None, "temperature", "quantized")
    _, theirs = logprobs(study, None, "temperature", "t3")
    page.wait_for_selector("#ppl-against")
    measured = [float(page.locator(f"#ppl-{part}").inner_text()) for part in ("lm", "mix", "against")]
    assert measured == pytest.approx([np.exp(-values.mean()) for values in (lm, ours, theirs)], rel=1e-3)
    page.locator("#text span").nth(40).click()
    assert page.locator(".side h3.row").all_inner_texts() == ["quantized", "t3"]
    assert page.locator(".side .neighbors").count() == 2 and page.locator(".side .tops ol").count() == 4
    left, right = (side.bounding_box() for side in page.locator(".side").all())
    assert left["x"] + left["width"] <= right["x"] + 1 and left["y"] == right["y"]
    told = page.locator(".verdict b").inner_text().removesuffix(" nats").replace("−", "-")
    assert float(told) == pytest.approx(ours[40] - theirs[40], abs=0.006)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_row_whose_neighbors_are_deleted_has_its_probabilities_alone(page):
    page.locator("#row").select_option("lost")
    page.wait_for_function("document.getElementById('details').textContent.includes('kept no neighbors of this row')")
    assert page.locator("#details .bars").count() == 1 and page.locator("#details .neighbors").count() == 0


# At the edges


def test_a_lambda_of_one_names_the_words_that_no_neighbor_has(open_page, page_path, study):
    missing = np.flatnonzero(np.isinf(npy.open_array(layout.find(study).knn("dev"))))
    assert len(missing), "the study has no such token: choose another seed"
    page = open_page(page_path, f"#t={missing[0] + 1}&lambda=1&row=knn")
    page.wait_for_function("document.getElementById('lambda-value').textContent === '1.00'")
    assert "no neighbor has this word" in page.locator("#details").inner_text()
    assert f"infinite (no neighbor has {len(missing)} of the words)" in page.locator("#perplexity").inner_text()
    page.keyboard.press("H")
    page.wait_for_selector(".extremes")
    assert "no neighbor has this word" in page.locator("#details").inner_text()
    assert "Infinity" not in page.locator("body").inner_text() and "NaN" not in page.locator("body").inner_text()


def test_unknown_words_are_dimmed(open_page, with_unknown):
    page = open_page(with_unknown)
    unknown = page.locator("#text span", has_text="<unk>")
    assert unknown.count() > 3
    look = "(span) => [getComputedStyle(span).backgroundColor, getComputedStyle(span).color]"
    before = [span.evaluate(look) for span in unknown.all()]
    page.keyboard.press("u")
    dimmed = [span.evaluate(look) for span in unknown.all()]
    assert {color for color, _ in dimmed} == {"rgba(0, 0, 0, 0)"} and dimmed != before
    page.locator("#dim").click()
    assert [span.evaluate(look) for span in unknown.all()] == before


def test_a_text_without_unknown_words_has_no_button_for_them(page):
    assert page.locator("#dim").is_hidden()


def test_the_panel_closes_on_a_phone_and_a_token_opens_it(open_page, page_path):
    page = open_page(page_path, size=SIZES["phone"])
    page.locator("#close").click()
    assert page.locator("#panel").is_hidden()
    page.locator("#text span").nth(30).click()
    assert page.locator("#panel").is_visible() and chosen(page) == 30
    assert open_page(page_path).locator("#close").is_hidden()


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("token", [1, 60, 200])
def test_the_token_of_the_address_is_in_sight(open_page, page_path, size, token):
    page = open_page(page_path, f"#t={token}&row=t3&against=quantized", size)
    page.wait_for_timeout(100)
    box, head, panel = (page.locator(part).bounding_box() for part in ("#text .chosen", "header", "#panel"))
    floor = panel["y"] if size[0] < 700 else size[1]
    assert head["y"] + head["height"] <= box["y"] and box["y"] + box["height"] <= floor
