"""A finished study in miniature: an untrained model, its datastore and all scores of one kNN-LM row, in seconds."""

import json
from pathlib import Path

import numpy as np
import torch

from knnlm.artifacts import description, files, lineage
from knnlm.corpora import binarize, build_vocab
from knnlm.datastores import add, extract, merge, rerank, search, train_index
from knnlm.models import evaluate, model
from knnlm.scores import interpolate, score_cache, score_knn
from knnlm.settings import ModelConfig

FOX = "the quick brown fox jumps over the lazy dog near the old mill . </script><b>&amp; is a word too ."
WORDS = FOX.split()
WINDOWS = '{"new": 32, "context": 32}'
INDEX = {"factory": "IVF4,SQfp16", "nprobe": 2, "sample": 2000}
SEARCHED = "searched/fox/seed1/fox/{}/fox/ffn_input_ln/fine"
NEIGHBORS = "neighbors/fox/seed1/fox/{}/fox/ffn_input_ln/fine/exact/first2of2"
DATASTORE = {"corpus": "fox", "keytype": "ffn_input_ln", "index": "fine", "distance": "exact", "k": 16}
DATASTORE |= {"temperature": 1, "shards": 2, "of": 2}


def text(documents: int, seed: int) -> tuple[str, list[dict]]:
    """Lines of shuffled words, one document each."""
    generator, whole, facts = np.random.default_rng(seed), "", []
    for number in range(documents):
        line = " ".join(str(word) for word in generator.choice(WORDS, 40)) + "\n"
        facts.append(
            {"title": f"Story <{number}>", "source": "made up", "start": len(whole.encode()), "bytes": len(line)}
        )
        whole += line
    return whole, facts


def write(study: Path, texts: int = 0, seed: int = 1) -> Path:
    """Everything that `layout.find(study)` points at; returns the folder. Another `texts` has another vocabulary."""
    corpus, vocab, tokens = study / "corpora/fox", study / "vocabs/words", study / "tokens/words/fox"
    corpus.mkdir(parents=True)
    for number, (split, documents) in enumerate({"train": 60, "dev": 6, "test": 8}.items()):
        whole, facts = text(documents, texts + number)
        (corpus / f"{split}.txt").write_text(whole)
        (corpus / f"{split}.documents.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in facts))
    description.write_meta(corpus, "prepare", {}, {}, pretokenized=True)
    build_vocab.main(build_vocab.BuildVocabConfig(corpora=(corpus,), settings='{"type": "word"}', out=vocab))
    binarize.main(binarize.BinarizeConfig(vocab=vocab, corpus=corpus, out=tokens))
    train(study / "models/fox/seed1", vocab, tokens, seed)
    retrieve(study, tokens)
    return study


def train(out: Path, vocab: Path, tokens: Path, seed: int) -> None:
    torch.manual_seed(seed)
    size = files.read_json(vocab / "vocab.json")["size"]
    config = ModelConfig(vocab_size=size, layers=2, dim=16, ffn_dim=32, heads=2, adaptive_cutoffs=(8,))
    out.mkdir(parents=True)
    model.save(model.LanguageModel(config).eval(), out)
    inputs = {"train": tokens / "train.npy", "vocab": vocab / "vocab.json"}
    shared = lineage.agree(inputs.values(), "vocab")
    description.write_meta(out, "train", config.model_dump(), inputs, shared, "model", training_tokens=2400)


def retrieve(study: Path, tokens: Path) -> None:
    """Datastore in two shards, indexes, neighbors, scores and Table 1."""
    lm, key = study / "models/fox/seed1", "ffn_input_ln"
    shards = [study / f"keys/fox/seed1/fox/train/{key}/shard{i}of2" for i in (0, 1)]
    index = study / f"indexes/fox/seed1/fox/{key}/fine"
    queries = {split: study / f"keys/fox/seed1/fox/{split}/{key}/shard0of1" for split in ("dev", "test")}
    logprobs = {split: study / f"logprobs/fox/{split}" for split in queries}
    found = {split: study / SEARCHED.format(split) for split in queries}
    settings = json.dumps(INDEX)
    for i, shard in enumerate(shards):
        extract.main(
            extract.ExtractConfig(lm, tokens / "train.npy", (key,), (shard,), windows=WINDOWS, shard=i, shards=2)
        )
    train_index.main(train_index.TrainIndexConfig(tuple(shards), index / "trained.faiss", settings))
    evaluate.main(
        evaluate.EvaluateConfig(
            model=lm,
            tokens=tuple(tokens / f"{split}.npy" for split in queries),
            logprob=tuple(path / "lm/fox/seed1" for path in logprobs.values()),
            keytypes=(key,),
            out=tuple(queries.values()),
            windows=WINDOWS,
        )
    )
    for shard in shards:
        add.main(add.AddConfig(index / "trained.faiss", shard, index / f"{shard.name}.faiss"))
        out = tuple(path / shard.name for path in found.values())
        search.main(
            search.SearchConfig(index / f"{shard.name}.faiss", shard, tuple(queries.values()), 16, out, settings)
        )
    merged = tuple(path / "first2of2" for path in found.values())
    several = tuple(path / shard.name for path in found.values() for shard in shards)
    merge.main(merge.MergeConfig(several, merged))
    final = tuple(study / NEIGHBORS.format(split) for split in queries)
    keys = tuple(queries.values())
    rerank.main(rerank.RerankConfig(merged, tuple(shards), keys, final, keep_index_distances=True))
    score(study, tokens, queries, logprobs, final)


def score(study: Path, tokens: Path, queries: dict, logprobs: dict, final: tuple[Path, ...]) -> None:
    for split in queries:
        cached = logprobs[split] / "cache/fox/seed1"
        documents = tokens / f"{split}.documents.npy"
        score_cache.main(score_cache.ScoreCacheConfig(queries[split], documents, cached, sizes=(50,), thetas=(0.1,)))
    knn = {split: path / "knn/fox/seed1/fox/ffn_input_ln/fine/first2of2" for split, path in logprobs.items()}
    scores = '[["exact", 16, 1]]'
    score_knn.main(score_knn.ScoreKnnConfig(final, tuple(queries.values()), tuple(knn.values()), (scores,)))
    rows, documents = sheet(study)
    out = study / "experiments/table1.json"
    interpolate.main(interpolate.InterpolateConfig(rows, documents, out, '{"resamples": 10}'))


def tune_temperature(study: Path, temperatures: list[float]) -> None:
    """Interpolate Table 1 again, its kNN row choosing among these temperatures."""
    rows, documents = map(json.loads, sheet(study))
    knn = rows[1]
    keys = tuple(study / f"keys/fox/seed1/fox/{split}/ffn_input_ln/shard0of1" for split in ("dev", "test"))
    near = tuple(study / NEIGHBORS.format(split) for split in ("dev", "test"))
    folders = {split: [str(Path(paths[0]).parent)] for split, paths in knn["components"]["knn"].items()}
    out = tuple(Path(paths[0]) for paths in folders.values())
    scores = json.dumps([["exact", 16, temperature] for temperature in [1, *temperatures]])
    score_knn.main(score_knn.ScoreKnnConfig(near, keys, out, (scores,)))
    knn["components"] = {"knn": folders}
    knn["datastore"] |= {"temperature": "tune", "temperatures": temperatures}
    out = study / "experiments/table1.json"
    settings = '{"resamples": 10}'
    interpolate.main(interpolate.InterpolateConfig(json.dumps(rows), json.dumps(documents), out, settings))


def sheet(study: Path) -> tuple[str, str]:
    """Table 1's rows and its documents, as JSON for `interpolate`."""
    logprobs = {split: study / f"logprobs/fox/{split}" for split in ("dev", "test")}
    knn = {split: path / "knn/fox/seed1/fox/ffn_input_ln/fine/first2of2" for split, path in logprobs.items()}
    row = {"name": "base", "label": "LM", "corpus": "fox", "model": "fox", "seeds": [1]}
    row["model_dirs"] = [str(study / "models/fox/seed1")]
    row["lm"] = {split: [str(path / "lm/fox/seed1/logprob.npy")] for split, path in logprobs.items()}
    parts = {"knn": {split: [str(path / "exact-k16-t1.npy")] for split, path in knn.items()}}
    caches = {"cache": {split: [str(path / "cache/fox/seed1")] for split, path in logprobs.items()}}
    store = DATASTORE | {"neighbors": str(study / NEIGHBORS.format("dev"))}
    rows = [
        row,
        row | {"name": "knn", "components": parts, "datastore": store},
        row | {"name": "cache", "components": caches},
    ]
    documents = {"fox": {split: str(study / f"tokens/words/fox/{split}.documents.npy") for split in logprobs}}
    return json.dumps(rows), json.dumps(documents)
