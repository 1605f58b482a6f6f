"""Import a model that the published code trained, in place of training."""

import logging
from dataclasses import dataclass
from pathlib import Path

from knnlm.artifacts import description, files, lineage
from knnlm.artifacts.files import UserError
from knnlm.corpora.vocab import WordVocab
from knnlm.models import fairseq, model
from knnlm.models.model import LanguageModel

log = logging.getLogger("knnlm")


@dataclass(frozen=True)
class ImportFairseqConfig:
    """Turn a checkpoint of the published code into a model directory, with the architecture that the file states."""

    checkpoint: Path
    """a .pt file as published"""
    dictionary: Path
    """the dict.txt that it was trained with"""
    out: Path
    """model directory"""


def main(config: ImportFairseqConfig) -> None:
    if not config.dictionary.is_file():
        raise UserError(f"{config.dictionary}: no such file")
    description.check(config.dictionary)
    arguments, state = fairseq.load_checkpoint(config.checkpoint)
    try:
        architecture = fairseq.architecture(arguments, WordVocab.read(config.dictionary).size)
        lm = LanguageModel(architecture)
        lm.load_state_dict(fairseq.convert(state, lm))
    except UserError as error:
        raise UserError(f"{config.checkpoint}: {error}") from None
    with files.atomic(config.out, directory=True) as tmp:
        model.save(lm, tmp)
        (tmp / "curve.jsonl").touch()  # how it was trained is not in the file
        inputs = {"checkpoint": config.checkpoint, "dictionary": config.dictionary}
        recorded, shared = {"architecture": architecture}, lineage.agree((config.dictionary,), "vocab")
        description.write_meta(tmp, "import_fairseq", recorded, inputs, shared, "model", training_tokens=None)
    log.info("%s: %.2fM parameters", config.out, model.parameter_count(lm) / 1e6)
