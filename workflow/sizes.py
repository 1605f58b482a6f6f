"""How large the parts of a study will be, before anything runs.

Words come from the configuration and the catalogue of archives, and the rest follows from those.
"""

from pathlib import Path

import pretrained
import yaml
from references import has_splits

from knnlm.settings import Architecture, PretrainedSizes, Source

UNKNOWN_WORDS = 2e6  # of an archive whose catalogue entry names none
UNKNOWN_FOLDER = 1e9  # words of a folder that is not there yet
BYTES_PER_WORD = 6
TOKENS_PER_WORD = {"word": 1.15, "sentencepiece": 1.4, "bert": 1.4, "pretrained": 1.4}
HELD_OUT = 250_000  # words of a split that is chosen by titles or published
LARGEST_VOCAB = 270_000


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

    def tokens_gb(self, vocab: str, words: float) -> float:
        """Of the tokens of so many words; they have two bytes each where the vocabulary allows it."""
        token = 2 if self.vocab_size(vocab) <= 1 << 16 else 4
        return words * TOKENS_PER_WORD[self.study["vocabs"][vocab]["type"]] * token * 1e-9

    def held_out(self, corpus: str) -> float:
        """Words of dev and test together."""
        entry = self.study["corpora"][corpus]
        entry = self.study["corpora"][entry["subset_of"]] if "subset_of" in entry else entry
        of_titles = entry.get("held_out_document_words", HELD_OUT)
        read = sum(map(self.source_words, entry["sources"]))
        drawn = not any(map(has_splits, map(Source.model_validate, entry["sources"]))) and read < UNKNOWN_FOLDER

        def words(split: str) -> float:
            if titles := entry.get(f"{split}_titles"):
                return min(HELD_OUT, of_titles * len(titles))
            return entry.get(f"{split}_words") or (read / 10 if drawn else min(HELD_OUT, of_titles))

        return words("dev") + words("test")

    def queries(self, model: str, corpus: str) -> float:
        """Tokens of dev and test together."""
        return self.queries_of(self.study["models"][model]["vocab"], corpus)

    def queries_of(self, vocab: str, corpus: str) -> float:
        """The same by the vocabulary."""
        return self.held_out(corpus) * TOKENS_PER_WORD[self.study["vocabs"][vocab]["type"]]

    def entries(self, model: str, corpus: str, shards: float) -> float:
        """Of one shard of the datastore."""
        return self.tokens(self.study["models"][model]["vocab"], corpus) / shards

    def vocab_size(self, vocab: str) -> float:
        entry = self.study["vocabs"][vocab]
        for name, model in self.study["models"].items():
            if model["vocab"] == vocab and (of_model := self.pretrained(name)):
                return of_model.vocab_size
        words = sum(self.train_words(corpus) for corpus in entry.get("corpora", ()))
        return entry.get("size") or entry.get("max_size") or min(LARGEST_VOCAB, words / 20)

    def pretrained(self, model: str) -> PretrainedSizes | None:
        """The sizes of a pretrained model; None for one that is trained here."""
        if "pretrained" not in self.study["models"][model]:
            return None
        stated = self.study["models"][model]["pretrained"]["sizes"]
        return PretrainedSizes.model_validate(stated) if stated else pretrained.UNKNOWN

    def architecture(self, model: str) -> Architecture:
        return Architecture.model_validate(self.study["models"][model]["architecture"])

    def flops(self, model: str, length: float, words: bool = True) -> float:
        """Operations of a forward pass for each token of a window of `length` tokens, with causal attention.

        `words`: the output's softmax too, of an adaptive one its first band.
        """
        if p := self.pretrained(model):
            return 2 * (p.parameters - (0 if words else p.vocab_size * p.dim)) + 2 * length * p.layers * p.dim
        a = self.architecture(model)
        bands = a.adaptive_cutoffs or [self.vocab_size(self.study["models"][model]["vocab"])]
        layer = 2 * (4 * a.dim**2 + 2 * a.dim * a.ffn_dim) + 2 * length * a.dim
        return a.layers * layer + (2 * bands[0] * a.dim if words else 0)

    def weights_gb(self, model: str) -> float:
        """The layers' and the embeddings' weights in float32; an adaptive one's tails are left out."""
        return self.flops(model, 0) / 2 * 4e-9
