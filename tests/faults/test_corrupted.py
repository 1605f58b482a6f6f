"""A damaged or exchanged artifact is refused by name, and nothing is made from it."""

import re
import shutil
from pathlib import Path

import pytest
import tinystudy

from knnlm.artifacts import files, lineage
from knnlm.artifacts.files import UserError
from knnlm.corpora import binarize, build_vocab
from knnlm.datastores import add, extract, merge, rerank, search, train_index
from knnlm.models import evaluate
from knnlm.outputs import illustrate
from knnlm.scores import interpolate, score_cache, score_knn

KEY = "ffn_input_ln"
MODEL, VOCAB, TOKENS, CORPUS = "models/fox/seed1", "vocabs/words", "tokens/words/fox", "corpora/fox"
KEYS, INDEX = f"keys/fox/seed1/fox/train/{KEY}", f"indexes/fox/seed1/fox/{KEY}/fine"
QUERIES = {split: f"keys/fox/seed1/fox/{split}/{KEY}/shard0of1" for split in ("dev", "test")}
FOUND = {split: tinystudy.SEARCHED.format(split) for split in ("dev", "test")}
FINAL = {split: tinystudy.NEIGHBORS.format(split) for split in ("dev", "test")}
LM = {split: f"logprobs/fox/{split}/lm/fox/seed1" for split in ("dev", "test")}
KNN = {split: f"logprobs/fox/{split}/knn/fox/seed1/fox/{KEY}/fine/first2of2" for split in ("dev", "test")}
CACHE = {split: f"logprobs/fox/{split}/cache/fox/seed1" for split in ("dev", "test")}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """Three studies: a correct one, one with another seed of the model, and one of other texts."""
    root = tmp_path_factory.mktemp("studies")
    variants = {"this": {}, "seed": {"seed": 2}, "texts": {"texts": 10}}
    return {name: tinystudy.write(root / name, **options) for name, options in variants.items()}


@pytest.fixture
def study(made, tmp_path) -> Path:
    return shutil.copytree(made["this"], tmp_path / "study")


def run(stage: str, study: Path) -> Path:
    """Run one stage of the study again; returns the path of its output."""
    at, out = study.joinpath, study / "new"
    tokens, pair = {split: at(TOKENS, f"{split}.npy") for split in ("train", "dev")}, (at(KEYS, "shard0of2"),)
    stages = {
        "build_vocab": (build_vocab, build_vocab.BuildVocabConfig, ((at(CORPUS),), out, '{"type": "word"}')),
        "binarize": (binarize, binarize.BinarizeConfig, (at(VOCAB), at(CORPUS), out)),
        "extract": (extract, extract.ExtractConfig, (at(MODEL), tokens["train"], (KEY,), (out,), tinystudy.WINDOWS)),
        "evaluate": (
            evaluate,
            evaluate.EvaluateConfig,
            (at(MODEL), (tokens["dev"],), (out,), (), (), tinystudy.WINDOWS),
        ),
        "train_index": (train_index, train_index.TrainIndexConfig, (pair, out)),
        "add": (add, add.AddConfig, (at(INDEX, "trained.faiss"), *pair, out)),
        "search": (
            search,
            search.SearchConfig,
            (at(INDEX, "shard0of2.faiss"), *pair, (at(QUERIES["dev"]),), 4, (out,)),
        ),
        "merge": (merge, merge.MergeConfig, (tuple(at(FOUND["dev"], f"shard{i}of2") for i in (0, 1)), (out,))),
        "rerank": (
            rerank,
            rerank.RerankConfig,
            (
                (at(FOUND["dev"], "first2of2"),),
                tuple(at(KEYS, f"shard{i}of2") for i in (0, 1)),
                (at(QUERIES["dev"]),),
                (out,),
            ),
        ),
        "score_knn": (
            score_knn,
            score_knn.ScoreKnnConfig,
            ((at(FINAL["dev"]),), (at(QUERIES["dev"]),), (out,), ('[["exact", 4, 1]]',)),
        ),
        "score_cache": (
            score_cache,
            score_cache.ScoreCacheConfig,
            (at(QUERIES["dev"]), at(TOKENS, "dev.documents.npy"), out, (5,), (1.0,)),
        ),
        "interpolate": (
            interpolate,
            interpolate.InterpolateConfig,
            (*tinystudy.sheet(study), out, '{"resamples": 10}'),
        ),
        "illustrate": (illustrate, illustrate.IllustrateConfig, (study, out)),
    }
    module, config, arguments = stages[stage]
    module.main(config(*arguments))
    return out


def refused(stage: str, study: Path, *names: str) -> None:
    """Assert that the stage stops with one line that contains the names, and writes nothing."""
    before = {path for path in study.rglob("*")}
    with pytest.raises(UserError) as error:
        run(stage, study)
    message = str(error.value)
    assert "\n" not in message
    for name in names:
        assert name in message, message
    assert {path for path in study.rglob("*")} == before


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flipped(path: Path) -> None:
    """Flip one bit in the last quarter, past the headers."""
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(content)


def gone(path: Path) -> None:
    path.unlink()


READ = [
    (f"{CORPUS}/train.txt", "build_vocab"),
    (f"{CORPUS}/dev.documents.jsonl", "binarize"),
    (f"{VOCAB}/dict.txt", "binarize"),
    (f"{VOCAB}/vocab.json", "binarize"),
    (f"{TOKENS}/train.npy", "extract"),
    (f"{TOKENS}/dev.npy", "evaluate"),
    (f"{TOKENS}/dev.documents.npy", "score_cache"),
    (f"{MODEL}/model.safetensors", "extract"),
    (f"{MODEL}/config.json", "evaluate"),
    (f"{KEYS}/shard0of2/keys.npy", "add"),
    (f"{KEYS}/shard1of2/keys.npy", "rerank"),
    (f"{KEYS}/shard0of2/values.npy", "score_knn"),
    (f"{KEYS}/shard0of2/ids.npy", "search"),
    (f"{QUERIES['dev']}/keys.npy", "score_cache"),
    (f"{QUERIES['dev']}/values.npy", "score_knn"),
    (f"{INDEX}/trained.faiss", "add"),
    (f"{INDEX}/shard0of2.faiss", "search"),
    (f"{FOUND['dev']}/shard1of2/distances.npy", "merge"),
    (f"{FOUND['dev']}/shard0of2/rows.npy", "merge"),
    (f"{FOUND['dev']}/first2of2/rows.npy", "rerank"),
    (f"{QUERIES['dev']}/keys.npy", "rerank"),
    (f"{FINAL['dev']}/rows.npy", "score_knn"),
    (f"{FINAL['dev']}/exact.npy", "score_knn"),
    (f"{LM['test']}/logprob.npy", "interpolate"),
    (f"{KNN['dev']}/exact-k16-t1.npy", "interpolate"),
    (f"{CACHE['test']}/size50-theta0.1.npy", "interpolate"),
    ("experiments/table1.json", "illustrate"),
]


@pytest.mark.parametrize("damage", [emptied, truncated, flipped, gone])
@pytest.mark.parametrize(("path", "stage"), READ)
def test_a_damaged_file_is_refused_by_name(study, path, stage, damage):
    damage(study / path)
    refused(stage, study, path)


DESCRIPTIONS = [
    (f"{CORPUS}/meta.json", "binarize"),
    (f"{VOCAB}/meta.json", "binarize"),
    (f"{TOKENS}/meta.json", "extract"),
    (f"{MODEL}/meta.json", "evaluate"),
    (f"{KEYS}/shard0of2/meta.json", "train_index"),
    (f"{QUERIES['dev']}/meta.json", "search"),
    (f"{INDEX}/trained.faiss.meta.json", "add"),
    (f"{FOUND['dev']}/shard0of2/meta.json", "merge"),
    (f"{FOUND['dev']}/first2of2/meta.json", "rerank"),
    (f"{FINAL['dev']}/meta.json", "score_knn"),
    (f"{KNN['test']}/meta.json", "interpolate"),
]


def edited(path: Path) -> None:
    path.write_text(path.read_text().replace('"bytes": ', '"bytes": 1', 1))


def undigested(path: Path) -> None:
    meta = files.read_json(path)
    del meta["digest"]
    files.write_json(path, meta)


@pytest.mark.parametrize("damage", [emptied, truncated, flipped, gone, edited, undigested])
@pytest.mark.parametrize(("path", "stage"), DESCRIPTIONS)
def test_a_damaged_description_is_refused_by_name(study, path, stage, damage):
    damage(study / path)
    refused(stage, study, path.removesuffix("/meta.json").removesuffix(".meta.json") if damage is gone else path)


def exchange(study: Path, path: str, other: Path) -> None:
    """Put another artifact, with its description, in the place of one."""
    here = study / path
    if here.is_dir():
        shutil.rmtree(here)
        shutil.copytree(other, here)
    else:
        shutil.copyfile(other, here)
        shutil.copyfile(f"{other}.meta.json", f"{here}.meta.json")


@pytest.mark.parametrize(
    ("path", "source", "stage", "names"),
    [
        (CORPUS, "texts", "binarize", ["vocabs/words", "another fox"]),
        (VOCAB, "texts", "binarize", ["vocabs/words", "another fox"]),
        (TOKENS, "texts", "evaluate", ["has vocab", "tokens/words/fox"]),
        (MODEL, "texts", "evaluate", ["has vocab", "models/fox/seed1"]),
        (MODEL, "seed", "search", ["another model", "models/fox/seed1"]),
        (MODEL, "seed", "add", ["another model", "models/fox/seed1"]),
        (f"{KEYS}/shard0of2", "seed", "add", ["has model", "shard0of2"]),
        (f"{INDEX}/trained.faiss", "seed", "add", ["has model", "trained.faiss"]),
        (f"{INDEX}/shard0of2.faiss", "seed", "search", ["has keys", "shard0of2.faiss"]),
        (QUERIES["dev"], "seed", "search", ["has model", QUERIES["dev"]]),
        (QUERIES["dev"], "texts", "score_cache", ["has vocab", QUERIES["dev"]]),
        (f"{FOUND['dev']}/shard1of2", "seed", "merge", ["has index", "shard1of2"]),
        (f"{FOUND['dev']}/first2of2", "seed", "rerank", ["has model", "first2of2"]),
        (f"{KEYS}/shard1of2", "seed", "rerank", ["another shard1", "shard1of2"]),
        (FINAL["dev"], "seed", "score_knn", ["has model", "first2of2"]),
        (LM["dev"], "seed", "interpolate", ["another model", LM["dev"]]),
        (KNN["dev"], "seed", "interpolate", ["another neighbors", KNN["dev"]]),
        (CACHE["test"], "texts", "interpolate", ["has text", CACHE["test"]]),
        ("experiments/table1.json", "texts", "illustrate", ["experiments/table1.json"]),
    ],
)
def test_an_artifact_of_another_study_is_refused(made, study, path, source, stage, names):
    exchange(study, path, made[source] / path)
    refused(stage, study, *names)


@pytest.mark.parametrize(
    ("path", "other", "stage", "names"),
    [
        (f"{KEYS}/shard0of2", f"{KEYS}/shard1of2", "add", ["trained.faiss", "shard0of2"]),
        (f"{FOUND['dev']}/shard1of2", f"{FOUND['dev']}/shard0of2", "merge", ["same keys", "shard1of2"]),
        (f"{FOUND['dev']}/shard1of2", f"{FOUND['test']}/shard1of2", "merge", ["has queries", "shard1of2"]),
        (f"{FOUND['dev']}/first2of2", f"{FOUND['test']}/first2of2", "rerank", ["has queries", QUERIES["dev"]]),
        (f"{KEYS}/shard1of2", f"{KEYS}/shard0of2", "rerank", ["another shard1", "shard1of2"]),
        (FINAL["dev"], FINAL["test"], "score_knn", ["has queries", QUERIES["dev"]]),
        (QUERIES["dev"], QUERIES["test"], "score_cache", ["has text", "dev.documents.npy"]),
        (LM["dev"], LM["test"], "interpolate", ["has text", LM["dev"]]),
        (KNN["test"], KNN["dev"], "interpolate", ["has text", KNN["test"]]),
        (f"{INDEX}/shard0of2.faiss", f"{INDEX}/shard1of2.faiss", "search", ["has keys", "shard0of2.faiss"]),
    ],
)
def test_an_artifact_in_another_ones_place_is_refused(study, path, other, stage, names):
    exchange(study, path, study / other)
    refused(stage, study, *names)


def test_a_file_of_another_artifact_is_refused(study):
    shutil.copyfile(study / QUERIES["test"] / "values.npy", study / QUERIES["dev"] / "values.npy")
    refused("score_knn", study, f"{QUERIES['dev']}/values.npy")


def test_a_file_without_a_description_is_refused(study):
    (study / INDEX / "shard0of2.faiss.meta.json").unlink()
    refused("search", study, "shard0of2.faiss: has no description")


def test_the_same_shard_twice_is_refused(study):
    shard = study / FOUND["dev"] / "shard0of2"
    with pytest.raises(UserError, match="have the same keys"):
        merge.main(merge.MergeConfig((shard, shard), (study / "new",)))
    assert not (study / "new").exists()


def test_two_seeds_with_one_model_are_refused(study):
    rows, documents = tinystudy.sheet(study)
    twice = re.sub(r'("seeds": \[1)\]', r"\1, 1]", rows)
    twice = re.sub(r'\[("[^"\[\]]*/seed1[^"\[\]]*")\]', r"[\1, \1]", twice)
    with pytest.raises(UserError, match="have the same model"):
        interpolate.main(interpolate.InterpolateConfig(twice, documents, study / "new"))


@pytest.mark.parametrize(
    "stage", ["binarize", "extract", "evaluate", "add", "search", "merge", "rerank", "score_knn", "interpolate"]
)
def test_a_study_that_was_moved_as_a_whole_still_works(study, stage):
    moved = study.rename(study.with_name("elsewhere"))
    assert run(stage, moved).exists()


def test_artifacts_made_again_have_the_same_identity(study):
    before = lineage.of(study / KNN["dev"])
    assert lineage.of(run("score_knn", study)) == before
