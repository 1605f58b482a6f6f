"""What each rule asks of a machine: formulas over the study's sizes (table in profiles/slurm/README.md).

Sizes are known before anything runs: words from the configuration and the catalogue of archives, the rest from those.
Times are those of one core or of one A100, and a job's limit is twice its estimate: a wrong guess costs a retry.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from knnlm.settings import Architecture, Factory, TrainingSettings

UNKNOWN_WORDS = 2e6  # of an archive whose catalogue entry names none
UNKNOWN_FOLDER = 1e9  # words of a folder that is not there yet
BYTES_PER_WORD = 6
TOKENS_PER_WORD = {"word": 1.15, "sentencepiece": 1.4, "bert": 1.4}
HELD_OUT = 250_000  # words of a split that is chosen by titles or published
LARGEST_VOCAB = 270_000
TRAIN_FLOPS, FORWARD_FLOPS, CORE_FLOPS = 8e13, 1.2e13, 3e10  # per second: an A100 in bfloat16, in float32; one core
DISK_BYTES, GATHERED_BYTES = 5e8, 1e9  # per second: of a file from its beginning; of keys in memory at random
MOST_KEYS_GB = 64
MOST_CPUS, CPUS_PER_GPU, MOST_GPUS = 16, 4, 8
BASE_MINUTES, BASE_GB = 20, 2.0


class Needs(NamedTuple):
    """One job's needs before any retry."""

    hours: float  # of one core, or of one GPU where gpus > 0
    memory: float = 0.0  # GB beyond BASE_GB
    disk: float = 0.0  # GB written
    gpus: int = 0
    serial: bool = False  # a further CPU would idle

    @property
    def cpus(self) -> int:
        """One for each hour of work, so that small studies stay on one."""
        most = 1 if self.serial else CPUS_PER_GPU * self.gpus if self.gpus else MOST_CPUS
        return max(1, min(most, math.ceil(self.hours)))

    @property
    def minutes(self) -> int:
        workers = self.gpus or self.cpus
        return math.ceil(BASE_MINUTES + 2 * 60 * self.hours / workers)

    @property
    def mem_mb(self) -> int:
        return math.ceil(1000 * (BASE_GB + self.memory))

    @property
    def disk_mb(self) -> int:
        return math.ceil(1000 * self.disk)


class Sizes:
    """How large the parts of a study will be."""

    def __init__(self, study: dict) -> None:
        self.study = study
        self.catalogue = yaml.safe_load(Path(study["archives"]).read_text())

    def source_words(self, source: dict) -> float:
        if "archive" in source:
            return self.catalogue[source["archive"]].get("words", UNKNOWN_WORDS)
        path = Path(source["path"])
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else []
        return sum(file.stat().st_size for file in files) / BYTES_PER_WORD if files else UNKNOWN_FOLDER

    def read_words(self, corpus: str) -> float:
        """Words of all that the corpus is made from."""
        entry = self.study["corpora"][corpus]
        if "subset_of" in entry:
            return self.train_words(entry["subset_of"])
        return sum(self.source_words(source) for source in entry["sources"])

    def train_words(self, corpus: str) -> float:
        entry = self.study["corpora"][corpus]
        words = self.read_words(corpus) * entry.get("fraction", 1)
        return min(words, entry.get("train_words") or words)

    def tokens(self, vocab: str, corpus: str) -> float:
        return self.train_words(corpus) * TOKENS_PER_WORD[self.study["vocabs"][vocab]["type"]]

    def queries(self, model: str, corpus: str) -> float:
        """Tokens of dev and test together."""
        entry = self.study["corpora"][corpus]
        entry = self.study["corpora"][entry["subset_of"]] if "subset_of" in entry else entry
        words = sum(entry.get(f"{split}_words") or HELD_OUT for split in ("dev", "test"))
        return words * TOKENS_PER_WORD[self.study["vocabs"][self.study["models"][model]["vocab"]]["type"]]

    def entries(self, model: str, corpus: str, shards: float) -> float:
        """Of one shard of the datastore."""
        return self.tokens(self.study["models"][model]["vocab"], corpus) / shards

    def vocab_size(self, vocab: str) -> float:
        entry = self.study["vocabs"][vocab]
        words = sum(self.train_words(corpus) for corpus in entry["corpora"])
        return entry.get("size") or entry.get("max_size") or min(LARGEST_VOCAB, words / 20)

    def architecture(self, model: str) -> Architecture:
        return Architecture.model_validate(self.study["models"][model]["architecture"])

    def factory(self, index: str) -> Factory:
        return Factory.parse(self.study["indexes"][index]["factory"])

    def weights(self, model: str) -> float:
        """Parameters that a token meets: the layers and the output's words, of an adaptive one its first band."""
        a = self.architecture(model)
        words = (a.adaptive_cutoffs or [self.vocab_size(self.study["models"][model]["vocab"])])[0]
        return a.layers * (4 * a.dim**2 + 2 * a.dim * a.ffn_dim) + words * a.dim

    def window(self, model: str, kind: str) -> float:
        """Tokens read for each one predicted."""
        window = self.study["models"][model]["windows"][kind]
        return 1 + window["context"] / window["new"]


class Formulas(Sizes):
    """One method for each rule, of the rule's wildcards."""

    def __init__(self, study: dict, other_keytypes: int) -> None:
        super().__init__(study)
        self.other_keytypes = other_keytypes

    def dim(self, w: Mapping) -> int:
        return self.architecture(w["model"]).dim

    def shard_entries(self, w: Mapping) -> float:
        return self.entries(w["model"], w["datastore"], self.study["datastores"][w["datastore"]]["shards"])

    def forward(self, model: str, tokens: float, kind: str) -> float:
        """GPU-hours."""
        return 2 * self.weights(model) * tokens * self.window(model, kind) / FORWARD_FLOPS / 3600

    def prepare(self, w: Mapping) -> Needs:
        words = self.read_words(w["corpus"])
        return Needs(words / 2e5 / 3600, words * 3e-9, words * 12e-9, serial=True)

    subset = prepare

    def vocab(self, w: Mapping) -> Needs:
        entry = self.study["vocabs"][w["vocab"]]
        words = sum(self.train_words(corpus) for corpus in entry["corpora"])
        words = min(words, entry.get("sample_words") or words)
        return Needs(words / 1e4 / 3600, words * 5e-7)

    def binarize(self, w: Mapping) -> Needs:
        """Of all, or to join the shards that jobs of their own have encoded."""
        words, shards = self.train_words(w["corpus"]), self.study["corpora"][w["corpus"]].get("token_shards", 1)
        return Needs((words if shards == 1 else 2 * HELD_OUT) / 5e4 / 3600, words * 2e-9, words * 12e-9)

    def binarize_shard(self, w: Mapping) -> Needs:
        words = self.train_words(w["corpus"])
        return Needs(words / int(w["shards"]) / 5e4 / 3600, words * 2e-9, words / int(w["shards"]) * 12e-9)

    def import_fairseq(self, w: Mapping) -> Needs:
        return Needs(0.1, 8, 2)

    def train(self, w: Mapping) -> Needs:
        recipe = TrainingSettings.model_validate(self.study["models"][w["model"]]["training"])
        flops = 6 * self.weights(w["model"]) * recipe.updates * recipe.tokens_per_update
        gpus = math.gcd(MOST_GPUS, recipe.tokens_per_update // recipe.tokens_per_batch)
        state = self.weights(w["model"]) * 12e-9  # weights, the best ones, momentum
        return Needs(flops / TRAIN_FLOPS / 3600, gpus * (2 + 2 * state), 2 * state, gpus=gpus)

    def evaluate(self, w: Mapping, keytypes: int = 1) -> Needs:
        queries = self.queries(w["model"], w["corpus"])
        hours = self.forward(w["model"], queries, "evaluation")
        return Needs(hours, 4 + self.weights(w["model"]) * 8e-9, queries * keytypes * 4e-9 * self.dim(w), gpus=1)

    def evaluate_keytypes(self, w: Mapping) -> Needs:
        return self.evaluate(w, self.other_keytypes)

    def extract(self, w: Mapping, keytypes: int = 1) -> Needs:
        entries = self.entries(w["model"], w["corpus"], float(w["shards"]))
        hours = self.forward(w["model"], entries, "datastore")
        disk = entries * (keytypes * 2 * self.dim(w) + 12) * 1e-9
        return Needs(hours, 4 + self.weights(w["model"]) * 8e-9 + entries * 24e-9, disk, gpus=1)

    def extract_keytypes(self, w: Mapping) -> Needs:
        return self.extract(w, self.other_keytypes)

    def train_index(self, w: Mapping) -> Needs:
        index = self.study["indexes"][w["index"]]
        sample = min(index["sample"], self.tokens(self.study["models"][w["model"]]["vocab"], w["datastore"]))
        flops = 50 * sample * (self.factory(w["index"]).lists + 256) * self.dim(w)  # 25 iterations
        return Needs(flops / CORE_FLOPS / 3600, sample * self.dim(w) * 12e-9, 0.1)

    def add(self, w: Mapping) -> Needs:
        factory, entries = self.factory(w["index"]), self.shard_entries(w)
        flops = 2 * entries * (factory.lists + 256) * self.dim(w)
        index = entries * factory.entry_bytes(self.dim(w)) * 1e-9
        return Needs(flops / CORE_FLOPS / 3600, 1 + 2 * index, index)

    def sample_keys(self, w: Mapping) -> Needs:
        sample = 4 * max(index["sample"] for index in self.study["indexes"].values())
        shards = max(1.0, self.entries(w["model"], w["corpus"], 1) / sample)
        return self.extract({**w, "shards": shards})

    def stream(self, w: Mapping) -> Needs:
        """Extraction and adding at once, to each index."""
        forward = self.extract({**w, "corpus": w["datastore"]})
        added = [self.add({**w, "index": index}) for index in w["index"]]
        disk = sum(add.disk for add in added) + self.shard_entries(w) * 12e-9
        hours = forward.hours + sum(add.hours for add in added) / CPUS_PER_GPU
        return Needs(hours, forward.memory + sum(add.memory for add in added), disk, gpus=1)

    def search(self, w: Mapping) -> Needs:
        nprobe, factory = self.study["indexes"][w["index"]]["nprobe"], self.factory(w["index"])
        queries, k = self.queries(w["model"], w["corpus"]), self.study["retrieval"]["k"]
        scanned = self.shard_entries(w) * min(1, nprobe / (factory.lists or nprobe))
        hours = queries * (scanned * 6e-8 + k * 5e-6) / 3600
        memory = self.shard_entries(w) * (factory.entry_bytes(self.dim(w)) + 8) * 1e-9  # and the ids
        return Needs(hours, 2 + memory, queries * k * 8e-9)

    def merge(self, w: Mapping) -> Needs:
        cells, first = self.queries(w["model"], w["corpus"]) * self.study["retrieval"]["k"], int(w["first"])
        return Needs(cells * first * 1e-7 / 3600, 0, cells * 8e-9, serial=True)

    def keys_held(self, w: Mapping) -> float:
        """GB of keys that reranking holds at a time: a shard's, where that is reasonable."""
        return round(min(MOST_KEYS_GB, 0.1 + self.shard_entries(w) * self.dim(w) * 2e-9), 1)

    def rerank(self, w: Mapping) -> Needs:
        """The keys of each shard are read twice, once to check them."""
        pairs, first = self.queries(w["model"], w["corpus"]) * self.study["retrieval"]["k"], int(w["first"])
        keys = first * self.shard_entries(w) * self.dim(w) * 2
        hours = (2 * keys / DISK_BYTES + pairs * self.dim(w) * 2 / GATHERED_BYTES) / 3600
        return Needs(hours, self.keys_held(w) + pairs * 32e-9, pairs * 12e-9)

    def score_knn(self, w: Mapping) -> Needs:
        queries, k = self.queries(w["model"], w["corpus"]), self.study["retrieval"]["k"]
        values = int(w["first"]) * self.shard_entries(w) * 4e-9  # read at random
        return Needs(queries * k * 2e-7 / 3600, 8192 * k * 60e-9 + values, queries * 80e-9)

    def score_cache(self, w: Mapping) -> Needs:
        queries, cache = self.queries(w["model"], w["corpus"]) / 2, self.study["cache"]
        grid = len(cache["sizes"]) * len(cache["thetas"])
        hours = queries * max(cache["sizes"]) * (2 * self.dim(w) / CORE_FLOPS + grid * 5e-9) / 3600
        return Needs(hours, 2 + queries * grid * 4e-9, queries * grid * 4e-9)

    def score_ngram(self, w: Mapping) -> Needs:
        tokens, orders = self.tokens(w["vocab"], w["corpus"]), self.study["ngram"]["orders"]
        return Needs(tokens * sum(orders) * 2e-6 / 3600, 1 + tokens * max(orders) * 30e-9, tokens * 3e-7, serial=True)

    def interpolate(self, w: Mapping) -> Needs:
        return Needs(0.25, 2, serial=True)


def directives(formulas: Formulas, rule: str, fixed: dict) -> dict[str, Callable]:
    """What stands after a rule's `resources:`; a retry asks for more memory and time."""

    def job(wildcards: Mapping) -> Needs:
        return getattr(formulas, rule)(dict(wildcards) | fixed)

    return {
        "mem_mb": lambda wildcards, attempt: attempt * job(wildcards).mem_mb,
        "runtime": lambda wildcards, attempt: attempt * job(wildcards).minutes,
        "disk_mb": lambda wildcards: job(wildcards).disk_mb,
        "gpu": lambda wildcards: job(wildcards).gpus,
    }
