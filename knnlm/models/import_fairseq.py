"""Import a model that the published code trained, in place of training."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from knnlm.artifacts import description, files, lineage
from knnlm.artifacts.files import UserError
from knnlm.corpora.vocab import WordVocab
from knnlm.models import fairseq, features, model, windows
from knnlm.models.model import LanguageModel
from knnlm.settings import SPECIAL_TOKENS, WindowSettings

log = logging.getLogger("knnlm")
TRIED = 512  # tokens of a text
READ = 1 << 16  # characters of a text in which so many tokens are looked for
WINDOWS = WindowSettings(new=128, context=128)


@dataclass(frozen=True)
class ImportFairseqConfig:
    """Turn a checkpoint of the published code into a model directory, with the architecture that the file states."""

    checkpoint: Path
    """a .pt file as published"""
    dictionary: Path
    """the dict.txt that it was trained with"""
    out: Path
    """model directory"""
    text: Path | None = None
    """text like the model's, with spaces between its tokens: warn where the model predicts it worse than chance"""


def main(config: ImportFairseqConfig) -> None:
    if not config.dictionary.is_file():
        raise UserError(f"{config.dictionary}: no such file")
    description.check(config.dictionary)
    words = WordVocab.read(config.dictionary)
    tokens = _beginning(config.text, words) if config.text else None
    arguments, state = fairseq.load_checkpoint(config.checkpoint)
    try:
        architecture = fairseq.architecture(arguments, words.size)
        fairseq.check_sizes(architecture, state)
        with torch.device("meta"):  # without memory: the file's own weights take the place of these
            lm = LanguageModel(architecture)
        lm.load_state_dict(fairseq.convert(state, lm), assign=True)
    except UserError as error:
        raise UserError(f"{config.checkpoint}: {error}") from None
    if tokens is not None:
        _try(lm.eval(), tokens, words, config)
    with files.atomic(config.out, directory=True) as tmp:
        model.save(lm, tmp)
        (tmp / "curve.jsonl").touch()  # how it was trained is not in the file
        inputs = {"checkpoint": config.checkpoint, "dictionary": config.dictionary}
        recorded, shared = {"architecture": architecture}, lineage.agree((config.dictionary,), "vocab")
        description.write_meta(tmp, "import_fairseq", recorded, inputs, shared, "model", training_tokens=None)
    log.info("%s: %.2fM parameters", config.out, model.parameter_count(lm) / 1e6)


def _beginning(text: Path, words: WordVocab) -> np.ndarray:
    """The first tokens of a text file, int64 [N]."""
    words.pretokenized = True
    try:
        with text.open(encoding="utf-8") as file:
            tokens = words.encode(file.read(READ))[:TRIED].astype(np.int64)
    except UnicodeDecodeError as error:
        raise UserError(f"{text}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(
            f"{text}: {'no such file' if isinstance(error, FileNotFoundError) else error.strerror}"
        ) from None
    if not (tokens >= len(SPECIAL_TOKENS)).any():
        raise UserError(f"{text}: found no word of the dictionary, expected text like the model's")
    return tokens


def _try(lm: LanguageModel, tokens: np.ndarray, words: WordVocab, config: ImportFairseqConfig) -> None:
    """Warn where the model's perplexity of words [N] is worse than that of their counts in the dictionary.

    Every weight fits a dictionary in another order, whose ids belong to other words.
    """
    chosen = windows.evaluation(tokens, WINDOWS, lm.eos)
    blocks = features.stream(lm, tokens, chosen, WINDOWS.length, (), 4 * WINDOWS.length, logprob=True)
    scored = np.concatenate([block.logprob for block in blocks if block.logprob is not None])  # [N] nats
    counted = tokens >= len(SPECIAL_TOKENS)  # [N]; the dictionary has no counts of the others
    counts = np.array([count + 1.0 for _, count in words.counts])  # [V - 4]
    unigram = np.log(counts / counts.sum())[tokens[counted] - len(SPECIAL_TOKENS)]
    ours, theirs = (math.exp(min(700.0, -float(nats.mean(dtype=np.float64)))) for nats in (scored[counted], unigram))
    found = f"{config.text}: perplexity {ours:.4g} over {counted.sum()} tokens"
    if ours > theirs:
        log.warning(
            "%s is worse than a unigram model's %.4g: is %s the dictionary that %s was trained with, in its order?",
            *(found, theirs, config.dictionary, config.checkpoint),
        )
    else:
        log.info("%s, a unigram model's %.4g", found, theirs)
