"""What a job has on disk, while it runs and after it, is what its formula says: small jobs, measured."""

import contextlib
import json
import os
import sys
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from conftest import ROOT

sys.path.insert(0, str(ROOT / "workflow"))
from resources import Formulas
from study import load

from knnlm.artifacts import disk
from knnlm.corpora import binarize, build_vocab, prepare, subset
from knnlm.datastores import add, extract, merge, rerank, search, train_index
from knnlm.models import evaluate, train

WORDS, DOCUMENTS, HELD_OUT, SHARDS, K = 80_000, 40, 2_000, 4, 64
W = {**dict.fromkeys(("corpus", "datastore", "model"), "mine"), "vocab": "words", "index": "fine"}
W |= {"shards": str(SHARDS), "first": "2"}
KEY = ("ffn_input_ln",)


class Measure:
    """Runs verbs; {name: the most bytes below a folder while it ran, those that it left}."""

    def __init__(self, folder):
        self.folder, self.found, self.most = folder, {}, 0

    def look(self):
        """Called before files are removed or replaced, which is when they are most."""
        total = self.size()
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                state = os.stat(f"/proc/self/fd/{name}")
                total += state.st_size * (state.st_nlink == 0)  # a temporary file without a name
        self.most = max(self.most, total)

    def size(self):
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def run(self, name, verb, config):
        before = self.most = self.size()
        verb(config)
        self.look()
        self.found[name] = self.most - before, self.size() - before


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(The small jobs, the formulas of their study)."""
    at = tmp_path_factory.mktemp("measured")
    study = write_texts(at)
    measure = Measure(at)
    replace = disk.replace

    def replacing(tmp, out):
        measure.look()
        replace(tmp, out)

    @contextlib.contextmanager
    def measured_file(**options):
        with tempfile.TemporaryFile(**options) as file:
            yield file
            file.flush()
            measure.look()

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(disk, "replace", replacing)
        for module in (prepare, binarize):
            patch.setattr(module, "tempfile", SimpleNamespace(TemporaryFile=measured_file))
        make(measure, at, study)
        yield measure.found, Formulas(study)


def write_texts(at):
    """Words of five letters, seven in a line, as many as the formulas expect of bytes and tokens; returns the study."""
    generator = np.random.default_rng(0)
    words = ["".join(letters) for letters in generator.choice([*"abcdefghij"], (300, 5))]
    (at / "texts").mkdir()
    for number in range(DOCUMENTS):
        lines = (" ".join(generator.choice(words, 7)) for _ in range(WORDS // DOCUMENTS // 7))
        (at / f"texts/{number}.txt").write_text("\n".join(lines) + "\n")
    study = yaml.safe_load((ROOT / "config/your-corpus.yaml").read_text())
    study["corpora"]["mine"] |= {"dev_words": HELD_OUT, "test_words": HELD_OUT}
    study["corpora"]["mine"]["sources"][0]["path"] = str(at / "texts")
    study["corpora"]["part"] = {"subset_of": "mine", "fraction": 0.5}
    study["vocabs"]["words"]["max_size"] = 300
    study["models"]["mine"]["architecture"] |= {"layers": 2, "dim": 64, "ffn_dim": 128, "tie_embeddings": True}
    study["models"]["mine"]["training"] |= {"updates": 3, "warmup": 1, "evaluate_every": 1, "save_every": 1e-9}
    study["datastores"]["mine"] = {"shards": SHARDS}
    study["indexes"] = {"fine": {"factory": "IVF4,PQ16x8", "sample": 2000}}
    study["retrieval"] = {"k": K, "index": "fine"}
    return load(study)


def make(measure, at, study):
    """Run the verbs one after another, each on what those before it wrote."""
    corpus, vocab, tokens, lm = (at / name for name in ("corpus", "vocab", "tokens", "lm"))
    settings = {name: study["corpora"]["mine"][name] for name in ("sources", "dev_words", "test_words")}
    measure.run("prepare", prepare.main, prepare.PrepareConfig(corpus, json.dumps(settings)))
    measure.run("subset", subset.main, subset.SubsetConfig(corpus, at / "part", 0.5))
    build_vocab.main(build_vocab.BuildVocabConfig((corpus,), vocab, json.dumps({"type": "word", "max_size": 300})))
    measure.run("binarize", binarize.main, binarize.BinarizeConfig(vocab, corpus, tokens))
    part = binarize.BinarizeConfig(vocab, corpus, at / "tokens_part", shard=1, shards=SHARDS)
    measure.run("binarize_shard", binarize.main, part)
    model = {name: json.dumps(study["models"]["mine"][name]) for name in ("architecture", "training")}
    asked = train.TrainConfig(tokens / "train.npy", tokens / "dev.npy", vocab / "vocab.json", lm, **model)
    measure.run("train", train.main, asked)
    shards = [at / f"shard{number}" for number in (0, 1)]
    for number, shard in enumerate(shards):
        asked = extract.ExtractConfig(lm, tokens / "train.npy", KEY, (shard,), shard=number, shards=SHARDS)
        measure.run("extract", extract.main, asked)
    settings = json.dumps({name: study["indexes"]["fine"][name] for name in ("factory", "sample")})
    trained = at / "trained.faiss"
    train_index.main(train_index.TrainIndexConfig(tuple(shards), trained, settings))
    queries = at / "queries"
    asked = evaluate.EvaluateConfig(lm, (tokens / "dev.npy",), (at / "logprob",), KEY, (queries,))
    evaluate.main(asked)
    for shard in shards:
        measure.run("add", add.main, add.AddConfig(trained, shard, at / f"{shard.name}.faiss"))
        asked = search.SearchConfig(at / f"{shard.name}.faiss", shard, (queries,), K, (at / f"{shard.name}.found",))
        measure.run("search", search.main, asked)
    found = tuple(at / f"{shard.name}.found" for shard in shards)
    measure.run("merge", merge.main, merge.MergeConfig(found, (at / "merged",)))
    asked = rerank.RerankConfig((at / "merged",), tuple(shards), (queries,), (at / "exact",))
    measure.run("rerank", rerank.main, asked)
    streamed = extract.ExtractConfig(
        lm,
        tokens / "train.npy",
        KEY,
        (at / "streamed",),
        shards=SHARDS,
        save_every=1e-9,
        trained=(trained,),
        index=(at / "streamed.faiss",),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract.IntoIndexes, "finish", always_kept(extract.IntoIndexes.finish))
        measure.run("stream", extract.main, streamed)


def always_kept(finish):
    """Save the unfinished indexes after every block; a real job does so for a small part of its time."""

    def finish_and_keep(self, block):
        finish(self, block)
        self.keep(block)

    return finish_and_keep


@pytest.mark.parametrize(
    "verb",
    ["prepare", "subset", "binarize", "binarize_shard", "train", "extract", "add", "stream", "search", "merge"],
)
def test_a_job_has_on_disk_what_its_formula_says(measured, verb):
    found, formulas = measured
    changed = {"subset": {"corpus": "part"}, "stream": {"index": ["fine"]}}
    needs = getattr(formulas, verb)(W | changed.get(verb, {}))
    most, left = found[verb]
    assert left == pytest.approx(1e9 * needs.disk, rel=0.1)
    assert most == pytest.approx(1e9 * (needs.disk + needs.scratch), rel=0.1)


def test_exact_distances_take_no_more_than_the_formula_says(measured):
    found, formulas = measured
    most, left = found["rerank"]
    assert most == pytest.approx(left, rel=0.01) and left <= 1e9 * formulas.rerank(W).disk
