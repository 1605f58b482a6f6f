"""What each rule asks of a machine: formulas over the study's sizes (table in profiles/slurm/README.md).

Times follow from the rates in rates.yaml, and a job's limit is twice its estimate: a wrong guess costs a retry.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import rates
from machines import Machines
from sizes import BYTES_PER_WORD, Sizes
from study import largest_sample, other_keytypes, rows, scores_needed, splits_wanted

from knnlm.settings import KEY_BYTES, IndexSettings, TrainingSettings

MOST_KEYS_GB = 64
MOST_CPUS, CPUS_PER_GPU, MOST_GPUS = 16, 4, 8
BASE_MINUTES, BASE_GB = 20, 2.0
MOST_GROWTH = 4  # a later retry asks for no more memory: it is one of a job that goes on where it stopped


class Needs(NamedTuple):
    """One job's needs before any retry."""

    hours: float  # of one core, or of one GPU where gpus > 0
    memory: float = 0.0  # GB beyond BASE_GB
    disk: float = 0.0  # GB of its outputs
    scratch: float = 0.0  # GB of files beside them that go when it ends
    gpus: int = 0
    serial: bool = False  # a further CPU would idle
    waits: float = 0.0  # hours for files and to start, which no further core shortens

    @property
    def cpus(self) -> int:
        """One for each quarter of an hour of work, so that small studies stay on one."""
        most = 1 if self.serial else CPUS_PER_GPU * self.gpus if self.gpus else MOST_CPUS
        return max(1, min(most, math.ceil(4 * self.hours)))

    @property
    def estimate(self) -> float:
        """Minutes from its start to its end."""
        return 60 * (self.hours / (self.gpus or self.cpus) + self.waits)

    @property
    def minutes(self) -> int:
        """The time limit."""
        return math.ceil(BASE_MINUTES + 2 * self.estimate)

    @property
    def mem_mb(self) -> int:
        return math.ceil(1000 * (BASE_GB + self.memory))

    @property
    def disk_mb(self) -> int:
        """The most that it has on disk at once."""
        return math.ceil(1000 * (self.disk + self.scratch))


class Formulas(Sizes):
    """One method for each rule, of the rule's wildcards."""

    def __init__(self, study: dict) -> None:
        super().__init__(study)
        self.other_keytypes, self.rates = other_keytypes(study), rates.load()

    def dim(self, w: Mapping) -> int:
        return (self.pretrained(w["model"]) or self.architecture(w["model"])).dim

    def key_gb(self, w: Mapping) -> float:
        """GB of one key of a datastore, which is named as such or as the corpus that is extracted."""
        precision = self.study["datastores"][w.get("datastore") or w["corpus"]]["key_precision"]
        return KEY_BYTES[precision] * self.dim(w) * 1e-9

    def shard_entries(self, w: Mapping) -> float:
        return self.entries(w["model"], w["datastore"], self.study["datastores"][w["datastore"]]["shards"])

    def index(self, w: Mapping, name: str = "") -> IndexSettings:
        """The settings of an index of that name, or the job's, with the factory of so many entries."""
        settings = IndexSettings.model_construct(**self.study["indexes"][name or w["index"]])  # checked with the study
        return settings.chosen(int(self.entries(w["model"], w["datastore"], 1)), self.dim(w))

    def core_hours(self, work: float, rate: str) -> float:
        """Of so much work at a rate of one core."""
        return work / self.rates["core"][rate] / 3600

    def waits(self, read: float = 0.0, written: float = 0.0) -> float:
        """Hours for so many GB of files, and to start."""
        disk = self.rates["disk"]
        return (read * 1e9 / disk["read"] + written * 1e9 / disk["write"] + self.rates["job"]) / 3600

    def work(
        self,
        hours: float,
        memory: float = 0.0,
        disk: float = 0.0,
        scratch: float = 0.0,
        *,
        read: float = 0.0,
        **others: Any,
    ) -> Needs:
        """Needs whose waits follow from the GB read and written."""
        return Needs(hours, memory, disk, scratch, waits=self.waits(read, disk + scratch), **others)

    def forward(self, model: str, tokens: float, kind: str, words: bool) -> float:
        """GPU-hours of a forward pass over windows in which so many tokens are predicted."""
        settings = self.study["models"][model]
        window = settings["windows"][kind]
        length = window["new"] + window["context"]
        rate = self.rates["gpu"]["forward"][settings["precision"]]
        return self.flops(model, length, words) * tokens * length / window["new"] / rate / 3600

    def prepare(self, w: Mapping) -> Needs:
        """The text lies on disk twice: its splits are written once all documents have been read."""
        words = self.read_words(w["corpus"])
        text = words * BYTES_PER_WORD * 1e-9
        return self.work(self.core_hours(words, "prepare"), words * 3e-9, text, text, serial=True)

    def subset(self, w: Mapping) -> Needs:
        words, kept = self.read_words(w["corpus"]), self.train_words(w["corpus"]) + self.held_out(w["corpus"])
        return self.work(self.core_hours(words, "prepare"), words * 3e-9, kept * BYTES_PER_WORD * 1e-9, serial=True)

    def vocab(self, w: Mapping) -> Needs:
        entry = self.study["vocabs"][w["vocab"]]
        words = sum(self.train_words(corpus) for corpus in entry.get("corpora", ()))
        if entry["type"] != "sentencepiece":  # its words are counted
            return self.work(self.core_hours(words, "encode"), 1)
        words = min(words, entry.get("sample_words") or words)
        return self.work(self.core_hours(words, "vocab"), words * 5e-7)

    def binarize(self, w: Mapping) -> Needs:
        """Of all, or to join the shards that jobs of their own have encoded."""
        words, shards = self.train_words(w["corpus"]), self.study["corpora"][w["corpus"]].get("token_shards", 1)
        held_out, train = self.held_out(w["corpus"]), self.tokens_gb(w["vocab"], words)
        encoded, scratch, read = (words + held_out, train, 0) if shards == 1 else (held_out, 0, train)
        tokens = self.tokens_gb(w["vocab"], words + held_out)
        return self.work(self.core_hours(encoded, "encode"), words * 2e-9, tokens, scratch, read=read)

    def binarize_shard(self, w: Mapping) -> Needs:
        """Tokens lie on disk twice: they are copied when their number is known."""
        words = self.train_words(w["corpus"])
        part = words / int(w["shards"])
        tokens = self.tokens_gb(w["vocab"], part)
        return self.work(self.core_hours(part, "encode"), words * 2e-9, tokens, tokens)

    def import_fairseq(self, w: Mapping) -> Needs:
        return self.work(0.1, 8, 2)

    def import_pretrained(self, w: Mapping) -> Needs:
        """The weights are held twice, in the type of the archive and in float32, and written once."""
        weights = self.weights_gb(w["model"])
        return self.work(0.1, 1 + 3 * weights, weights, read=weights)

    def train(self, w: Mapping) -> Needs:
        recipe = TrainingSettings.model_validate(self.study["models"][w["model"]]["training"])
        flops = 3 * self.flops(w["model"], recipe.block) * recipe.updates * recipe.tokens_per_update
        hours = flops / self.rates["gpu"]["train"][recipe.precision] / 3600
        gpus = math.gcd(MOST_GPUS, recipe.tokens_per_update // recipe.tokens_per_batch)
        weights, moments = self.weights_gb(w["model"]), 2 if recipe.optimizer == "adamw" else 1
        state = (2 + moments) * weights  # with the best ones; on disk the last state, and the next one beside it
        return self.work(hours, gpus * (2 + 2 * state), weights, 2 * state - weights, gpus=gpus)

    def finetune(self, w: Mapping) -> Needs:
        """As training; the initial weights are read."""
        trained = self.train(w)
        return trained._replace(waits=self.waits(self.weights_gb(w["model"]), trained.disk))

    import_initial = import_pretrained

    def asked(self, w: Mapping) -> float:
        """Queries of dev and, where an output shows it, of test."""
        return self.queries(w["model"], w["corpus"]) / 2 * len(splits_wanted(self.study, w))

    def keytypes_together(self) -> int:
        """How many other key types are extracted in one pass; where keys are deleted, at most keytypes_gb of them."""
        stored = {
            (row["model"], row["datastore"]) for row in rows(self.study) if row.get("keytype") in self.other_keytypes
        }
        largest = max(
            (self.entries(*one, 1) * self.key_gb({"model": one[0], "datastore": one[1]}) for one in stored), default=0
        )
        if self.study["keep"] == "all" or largest == 0:
            return max(1, len(self.other_keytypes))
        return max(1, math.floor(self.study["keytypes_gb"] / largest))

    def evaluate(self, w: Mapping, keytypes: int = 1) -> Needs:
        queries = self.asked(w)
        hours = self.forward(w["model"], queries, "evaluation", words=keytypes == 1)
        memory = 4 + 2 * self.weights_gb(w["model"])
        return self.work(hours, memory, queries * keytypes * 4e-9 * self.dim(w), gpus=1)

    def evaluate_keytypes(self, w: Mapping) -> Needs:
        return self.evaluate(w, len(self.other_keytypes))

    def extract(self, w: Mapping, keytypes: int = 1) -> Needs:
        entries = self.entries(w["model"], w["corpus"], float(w["shards"]))
        hours = self.forward(w["model"], entries, "datastore", words=False)
        memory = 4 + 2 * self.weights_gb(w["model"]) + entries * 24e-9
        return self.work(hours, memory, entries * (keytypes * self.key_gb(w) + 12e-9), gpus=1)

    def extract_keytypes(self, w: Mapping) -> Needs:
        """Of other key types in one pass."""
        return self.extract(w, min(self.keytypes_together(), len(self.other_keytypes)))

    def train_index(self, w: Mapping) -> Needs:
        index = self.index(w)
        sample = min(index.sample, self.tokens(self.study["models"][w["model"]]["vocab"], w["datastore"]))
        flops = 50 * sample * (index.parsed.lists + 256) * self.dim(w)  # 25 iterations
        keys = sample * self.key_gb(w)
        trained = (index.parsed.lists + 256) * self.dim(w) * 4e-9  # centroids
        return self.work(self.core_hours(flops, "matrix"), 6 * keys, trained, read=2 * keys)  # whole pages

    def adding(self, w: Mapping) -> tuple[float, float]:
        """Operations to add a shard's keys to an index, and the index's GB."""
        factory, entries = self.index(w).parsed, self.shard_entries(w)
        flops = 2 * entries * (factory.lists + 256) * self.dim(w)
        return flops, entries * factory.entry_bytes(self.dim(w)) * 1e-9

    def add(self, w: Mapping) -> Needs:
        flops, index = self.adding(w)
        keys = self.shard_entries(w) * self.key_gb(w)
        return self.work(self.core_hours(flops, "matrix"), 1 + 2 * index, index, read=keys)

    def sample_keys(self, w: Mapping) -> Needs:
        sample = 4 * largest_sample(self.study, w["corpus"])
        shards = max(1.0, self.entries(w["model"], w["corpus"], 1) / sample)
        return self.extract({**w, "shards": shards})

    def stream(self, w: Mapping) -> Needs:
        """Extraction and adding at once, to each index, on the same GPU; an index is written beside its last state."""
        forward = self.extract({**w, "corpus": w["datastore"]})
        added = [self.adding({**w, "index": index}) for index in w["index"]]
        hours = forward.hours + sum(flops for flops, _ in added) / self.rates["gpu"]["index"] / 3600
        indexes, values = sum(index for _, index in added), self.shard_entries(w) * 12e-9
        memory = forward.memory + len(added) + 2 * indexes
        return self.work(hours, memory, indexes + values, indexes, gpus=1)

    def search(self, w: Mapping) -> Needs:
        index = self.index(w)
        queries, k = self.asked(w), self.study["retrieval"]["k"]
        scanned = self.shard_entries(w) * visited(index)
        scan = "scan_fast" if "fs" in index.factory else "scan"
        hours = self.core_hours(queries * scanned, scan) + self.core_hours(queries * k, "neighbors")
        held = self.shard_entries(w) * (index.parsed.entry_bytes(self.dim(w)) + 8) * 1e-9  # ids too
        return self.work(hours, 2 + held, queries * k * 8e-9, read=held)

    def merge(self, w: Mapping) -> Needs:
        cells, first = self.asked(w) * self.study["retrieval"]["k"], int(w["first"])
        hours = self.core_hours(cells * first, "merge")
        return self.work(hours, 0, cells * 8e-9, read=cells * first * 8e-9, serial=True)

    def keys_held(self, w: Mapping) -> float:
        """GB of keys that reranking holds at a time: a shard's, where that is reasonable."""
        return round(min(MOST_KEYS_GB, 0.1 + self.shard_entries(w) * self.key_gb(w)), 1)

    def rerank(self, w: Mapping) -> Needs:
        """The keys of each shard are read twice, once to check them."""
        pairs, first = self.asked(w) * self.study["retrieval"]["k"], int(w["first"])
        hours = self.core_hours(pairs * self.dim(w) * 2, "gather")
        keys = first * self.shard_entries(w) * self.key_gb(w)
        where = {name: w[name] for name in ("model", "corpus", "datastore", "keytype", "index") if name in w}
        kept = {distance for distance, *_ in scores_needed(self.study, "dev", shards=first, **where)} - {"exact"}
        return self.work(hours, self.keys_held(w) + pairs * 32e-9, pairs * (12e-9 if kept else 8e-9), read=2 * keys)

    def score_knn(self, w: Mapping) -> Needs:
        queries, k = self.asked(w), self.study["retrieval"]["k"]
        values = int(w["first"]) * self.shard_entries(w) * 4e-9  # read at random
        return self.work(self.core_hours(queries * k, "score"), 8192 * k * 60e-9 + values, queries * 80e-9, read=values)

    def score_cache(self, w: Mapping) -> Needs:
        queries, cache = self.queries(w["model"], w["corpus"]) / 2, self.study["cache"]
        grid, recent = len(cache["sizes"]) * len(cache["thetas"]), queries * max(cache["sizes"])
        hours = self.core_hours(recent * 2 * self.dim(w), "matrix") + self.core_hours(recent * grid, "cache")
        return self.work(hours, 2 + queries * grid * 4e-9, queries * grid * 4e-9)

    def score_ngram(self, w: Mapping) -> Needs:
        tokens, orders = self.tokens(w["vocab"], w["corpus"]), self.study["ngram"]["orders"]
        hours, memory = self.core_hours(tokens * sum(orders), "ngram"), 1 + tokens * max(orders) * 30e-9
        scored = self.queries_of(w["vocab"], w["corpus"]) * len(orders) * 4e-9
        return self.work(hours, memory, scored, tokens * 3e-7, serial=True)

    def stored_tokens(self, w: Mapping) -> float:
        """Of the text that the row's datastore holds."""
        return self.tokens(self.study["models"][w["model"]]["vocab"], w["datastore"])

    def score_infinigram(self, w: Mapping) -> Needs:
        tokens, queries = self.tokens(w["vocab"], w["text"]), self.queries_of(w["vocab"], w["corpus"])
        return self.work(self.core_hours(tokens, "ngram"), 1 + tokens * 48e-9, queries * 9e-9)

    def adapt(self, w: Mapping) -> Needs:
        """Nine temperatures are scored; n-grams of the text are counted, and networks see all context vectors."""
        queries, k = self.queries(w["model"], w["corpus"]), self.study["retrieval"]["k"]
        hours = self.core_hours(10 * queries * k, "score") + self.core_hours(4 * self.stored_tokens(w), "ngram")
        memory = 2 + self.stored_tokens(w) * 120e-9 + 16e-9 * queries * self.dim(w)
        return self.work(hours, memory, queries * 32e-9)

    def skip(self, w: Mapping) -> Needs:
        """For each of six numbers of pointers, keys of dev and of test are read at random."""
        pairs = self.queries(w["model"], w["corpus"]) * self.study["retrieval"]["k"]
        hours = self.core_hours(6 * pairs * self.dim(w) * 2, "gather")
        return self.work(hours, 6 + self.stored_tokens(w) * 24e-9, 0.01)

    def shrink(self, w: Mapping) -> Needs:
        """Sixteen datastores are built, searched and scored at nine temperatures; merging searches for each entry.

        OPQ takes 200 iterations of k-means for each of two indexes.
        """
        entries, queries = self.entries(w["model"], w["datastore"], 1), self.queries(w["model"], w["corpus"])
        k, index = self.study["retrieval"]["k"], self.index(w, self.study["retrieval"]["index"])
        hours = self.core_hours((16 * queries + entries) * entries * visited(index), "scan")
        hours += self.core_hours(16 * queries * k, "neighbors") + self.core_hours(16 * 9 * queries * k, "score")
        hours += self.core_hours(11 * 2 * queries * k * self.dim(w), "gather")
        hours += self.core_hours(16 * 2 * entries * (index.parsed.lists + 256) * self.dim(w), "matrix")
        hours += self.core_hours(2 * 2 * 200 * min(index.sample, 65536) * 256 * self.dim(w), "matrix")
        memory = 2 + entries * (self.dim(w) * 4 + 40) * 1e-9 + min(queries * k, 1 << 28) * 36e-9
        return self.work(hours, memory, 0.01)

    def frontier(self, w: Mapping) -> Needs:
        """Eight indexes of two million entries at most are built and searched for 2,048 queries, exactly too."""
        entries = min(2e6, self.entries(w["model"], w["datastore"], 1))
        hours = self.core_hours(8 * 2 * entries * (2048 + 256) * self.dim(w), "matrix")
        hours += self.core_hours(8 * 2048 * entries / 4 + 2048 * entries, "scan")
        return self.work(hours, 2 + entries * self.dim(w) * 8e-9, 0.01, serial=True)

    def diagnose(self, w: Mapping) -> Needs:
        pairs = self.queries(w["model"], w["corpus"]) / 2 * self.study["retrieval"]["k"]
        return self.work(self.core_hours(pairs, "neighbors"), 2 + self.stored_tokens(w) * 12e-9, 0.01)

    def compare_texts(self, w: Mapping) -> Needs:
        """After each of 40 prompts two texts of 64 words, word by word, and a search for these and the document's own.

        For a single word a model's weights are read once, which takes five times as long as its operations in batches.
        """
        words, index = 40 * 64, self.index(w, self.study["retrieval"]["index"])
        steps = self.flops(w["model"], 100) * (5 * 2 * words + 3 * 2 * 1.5 * words)  # other words are read in batches
        entries = self.entries(w["model"], w["datastore"], 1)
        scanned = entries * visited(index)
        hours = self.core_hours(steps, "matrix") + self.core_hours(3 * words * scanned, "scan")
        hours += self.core_hours(3 * words * self.study["retrieval"]["k"], "neighbors")
        held = entries * (index.parsed.entry_bytes(self.dim(w)) + 12) * 1e-9
        return self.work(hours, 2 + 2 * self.weights_gb(w["model"]) + held, 0.01, read=held)

    def interpolate(self, w: Mapping) -> Needs:
        return self.work(0.25, 2, serial=True)


def visited(index: IndexSettings) -> float:
    """The share of an index's lists that a query visits."""
    return min(1, index.nprobe / (index.parsed.lists or index.nprobe))


def directives(formulas: Formulas, rule: str, fixed: dict, machines: Machines) -> dict[str, Callable]:
    """What stands after a rule's `resources:`; a retry asks for more memory and time, within what there is."""

    def job(wildcards: Mapping) -> Needs:
        return getattr(formulas, rule)(dict(wildcards) | fixed)

    return {
        "mem_mb": lambda wildcards, attempt: min(attempt, MOST_GROWTH) * job(wildcards).mem_mb,
        "runtime": lambda wildcards, attempt, rulename: min(
            attempt * job(wildcards).minutes, machines.longest(rulename)
        ),
        "estimate_min": lambda wildcards: max(1, round(job(wildcards).estimate)),
        "disk_mb": lambda wildcards: job(wildcards).disk_mb,
        "scratch_mb": lambda wildcards: math.ceil(1000 * job(wildcards).scratch),
        "gpu": lambda wildcards: job(wildcards).gpus,
        "gpu_model": lambda wildcards, rulename: machines.gpu_model(rulename, job(wildcards).gpus),
    }
