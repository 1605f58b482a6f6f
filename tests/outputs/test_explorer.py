"""The explorer as a reader has it: a page from a file, in a real browser."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tinystudy
import torch

from knnlm.artifacts import files, npy
from knnlm.datastores import neighbors
from knnlm.live import layout
from knnlm.outputs import candidates, explore, packing, scored, spacing
from knnlm.scores import knn

CHROMIUM = shutil.which("chromium")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return tinystudy.write(tmp_path_factory.mktemp("results") / "tiny")


@pytest.fixture(scope="module")
def page_path(study):
    explore.main(explore.ExploreConfig(study=study, out=study / "explorer.html", neighbors=4, words=5, note="A test."))
    return study / "explorer.html"


def test_the_page_has_the_same_bytes_twice_and_no_address_of_another_file(study, page_path: Path):
    again = study / "again.html"
    explore.main(explore.ExploreConfig(study=study, out=again, neighbors=4, words=5, note="A test."))
    page = page_path.read_text()
    assert page == again.read_text()
    assert "http" not in page and "src=" not in page and "@import" not in page
    assert page.count("</script>") == 2  # the corpus has the word </script><b>&amp;


def test_the_page_shows_of_a_token_what_the_study_measured(study):
    source = layout.find(study)
    text = scored.load(source)
    words, lm, near = candidates.candidates(source, text, 100, words=5, batch_tokens=12288)
    for position in range(100):
        seen = dict(zip(words[position].tolist(), zip(lm[position], near[position], strict=True), strict=True))
        if (target := int(text.tokens[position])) in seen:
            shown = packing.restored(np.array(seen[target]))
            measured = [npy.open_array(path)[position] for path in (source.lm("test"), source.knn("test"))]
            assert np.exp(shown) == pytest.approx(np.exp(measured), abs=1e-3)


def test_weights_of_neighbors_are_shares_of_all_k(study):
    _, _, weights = explore.nearest(scored.load(layout.find(study)), 50, shown=16)
    assert np.exp(packing.restored(weights)).sum(1) == pytest.approx(np.ones(50), abs=2e-3)


def test_a_page_beyond_its_size_is_refused_with_the_way_out(study):
    with pytest.raises(files.UserError, match="lower --tokens or --neighbors"):
        explore.main(explore.ExploreConfig(study=study, out=study / "x.html", megabytes=0.001))


def test_logprobs_survive_16_bits():
    logprob = np.log(np.array([1, 0.5, 1e-13, 0]), where=[True, True, True, False], out=np.full(4, -np.inf))
    assert np.exp(packing.restored(packing.quantized(logprob))) == pytest.approx(np.exp(logprob), rel=3e-4)


def test_kept_contexts_end_at_their_document():
    kept = packing.windows(np.array([1, 6]), np.array([0, 5]), 10, before=3, after=1)
    assert np.flatnonzero(kept).tolist() == [0, 1, 2, 5, 6, 7]


def test_pieces_of_three_vocabularies_join():
    assert [spacing.piece(token)[1] for token in ("fox", ",", "(", "@-@", "##ing", '"', "</s>")] == [
        0,
        1,
        2,
        3,
        1,
        4,
        8,
    ]
    assert spacing.subword("▁fox") == ("fox", 0) and spacing.subword("es") == ("es", 1)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the explorer is tested with playwright: install it")
    if not CHROMIUM:
        pytest.skip("the explorer is tested in chromium: apt-get install chromium")
    with playwright.sync_playwright() as tools:
        running = tools.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield running
        running.close()


@pytest.fixture(params=[(1366, 820), (390, 844)], ids=["desktop", "phone"])
def page(request, browser, page_path):
    width, height = request.param
    opened = browser.new_page(viewport={"width": width, "height": height})
    complaints: list[str] = []
    opened.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(page_path.as_uri())
    opened.wait_for_selector("body[data-ready]")
    yield opened
    assert complaints == []
    opened.close()


def chosen(page) -> int:
    return int(page.locator("#text .chosen").get_attribute("data-i"))


def test_every_token_stands_there_and_nothing_is_wider_than_the_screen(page, study):
    stream = npy.open_array(layout.find(study).tokens("fox", "test"))
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
    found = neighbors.load(source.neighbors("test"))
    words, shares = knn.distribution(found.stored("exact")[position], found.values[position])
    return explore.vocab.load(source.vocab).tokens(words.tolist()), shares


def test_the_slider_recomputes_the_mixture(page, study):
    source = layout.find(study)
    lm, near = (npy.open_array(path).astype(float) for path in (source.lm("test"), source.knn("test")))
    page.locator("#lambda").fill("0.4")
    page.wait_for_function("document.getElementById('lambda-value').textContent === '0.40'")
    expected = np.exp(-np.log(0.6 * np.exp(lm) + 0.4 * np.exp(near)).mean())
    assert float(page.locator("#ppl-mix").inner_text()) == pytest.approx(expected, rel=1e-3)
    assert float(page.locator("#ppl-lm").inner_text()) == pytest.approx(np.exp(-lm.mean()), rel=1e-3)
    page.locator("#tuned").click()
    page.wait_for_function(f"document.getElementById('lambda').value == {source.lmbda:.2f}")


def test_colors_switch(page):
    before = page.locator("#text span").nth(10).get_attribute("style")
    for number, name in enumerate(("gain of kNN-LM", "p kNN", "p LM", "p cache"), start=1):
        page.keyboard.press(str(number))
        assert page.locator("#modes [aria-checked=true]").inner_text() == name
    page.locator("#modes button").first.click()
    assert page.locator("#text span").nth(10).get_attribute("style") == before


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
    page.keyboard.press("Escape")
    page.keyboard.press("N")
    assert chosen(page) == first


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_the_words_and_weights_of_each_token_are_of_the_rows_temperature(temperature, monkeypatch):
    """Six tokens, of which five are shown, with three neighbors each in no order of distance; six words."""
    rng = np.random.default_rng(2)
    near, values = rng.gamma(2, 3, (6, 3)).astype(np.float32), rng.integers(0, 6, (6, 3))
    ids, probabilities = rng.integers(0, 50, (6, 3)), rng.dirichlet(np.ones(6), 6)
    near[4, 1], ids[4, 1], ids[0, 0] = np.inf, -1, 0
    scores = np.zeros(6, np.float32)
    text = scored.ScoredText(values[:, 0], scores, scores, ids, values, near, "exact", temperature)
    logprob = torch.from_numpy(np.log(probabilities).astype(np.float32))
    blocks = [(np.arange(3), logprob[:3]), (np.arange(3, 5), logprob[3:5])]
    monkeypatch.setattr(candidates.distributions, "blocks", lambda *_: blocks)
    words, lm, knn_logprob = candidates.candidates(None, text, 5, words=2, batch_tokens=1)
    entries, distances, weights = explore.nearest(text, 5, shown=2)
    for position in range(5):
        shares = np.exp(-near[position].astype(float) / temperature)
        shares /= shares.sum()
        of_word = {word: shares[values[position] == word].sum() for word in range(6)}
        likeliest = sorted(range(6), key=lambda word: -probabilities[position, word])[:2]
        retrieved = sorted((word for word in range(6) if of_word[word] > 0), key=lambda word: -of_word[word])[:2]
        union = sorted({*likeliest, *retrieved})
        assert words[position].tolist() == union + [0] * (4 - len(union))
        for logprobs, expected in ((lm, probabilities[position]), (knn_logprob, of_word)):
            shown = np.exp(packing.restored(logprobs[position]))
            assert shown == pytest.approx([expected[word] for word in union] + [0] * (4 - len(union)), rel=2e-3)
        order = np.argsort(near[position])[:2]
        assert entries[position].tolist() == ids[position, order].tolist()
        assert distances[position] == pytest.approx(near[position, order], rel=1e-2)
        assert np.exp(packing.restored(weights[position])) == pytest.approx(shares[order], rel=2e-3)


def test_the_first_entry_is_shown_and_a_missing_one_is_not(study):
    source = layout.find(study)
    near = explore.contexts(source, np.array([[0, -1], [5, 0]]), before=2, after=1)
    stream = npy.open_array(source.tokens("fox", "train"))
    assert near.tokens.tolist() == stream[[0, 1, 3, 4, 5, 6]].tolist()
    assert near.places.tolist() == [[1, 0], [5, 1]] and near.documents.tolist() == [0]


def test_every_token_and_no_document_behind_the_last_is_on_the_page(study):
    source = layout.find(study)
    starts = npy.open_array(source.documents("fox", "test")).tolist()
    everything = explore.collect(explore.ExploreConfig(study=study, out=study / "x.html"), source)
    assert (
        everything["shown"]["tokens"] == everything["shown"]["of"] == len(npy.open_array(source.tokens("fox", "test")))
    )
    assert [start for start, _ in everything["documents"]] == starts
    for count, expected in ((starts[2], starts[:2]), (starts[2] + 1, starts[:3])):
        assert [start for start, _ in explore.documents(source, count)] == expected
