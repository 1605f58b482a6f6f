"""A pretrained language model with the interface of `LanguageModel`, so that every command works with it unchanged.

The architecture is one of the library `transformers`; weights are safetensors, and no code comes with them. Key types
are read by hooks on the model's own modules, at the places that taps.py names.
"""

import contextlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from knnlm.artifacts import huggingface
from knnlm.artifacts.description import check
from knnlm.artifacts.files import UserError, read_json, write_json
from knnlm.models import taps as places
from knnlm.models.taps import NORMALISED
from knnlm.settings import SECOND_LAST

KIND = "pretrained"
LOGITS = 1 << 25  # logits computed at a time
OF_OTHER_USES = ("id2label", "label2id", "num_labels", "return_dict")  # settings without a meaning here
LAYERS = ("num_hidden_layers", "n_layer")  # as GPT-2 has it
TIED = 2  # matrices that may have one weight in the file
UNUSED_WORDS = 1024  # rows of an embedding matrix beyond the vocabulary: it is padded to a round number
NOT_KEPT = (
    "_name_or_path",
    "_model_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "transformers_version",
)


@dataclass(frozen=True)
class PretrainedConfig:
    """What config.json says of a pretrained model."""

    architecture: str
    """model_type of transformers"""
    dim: int
    """width of a layer's output, and so of a key"""
    vocab_size: int
    """rows of the output matrix, which may be more than the tokenizer has tokens"""
    layers: int
    positions: int
    """the longest window that the model can read, in tokens"""
    eos: int
    """the token that ends each document of a stream"""
    bos: int | None
    """the token that begins every text that the model reads; None where it was trained without one"""
    transformers: dict[str, Any]
    """the architecture's own settings"""
    taps: dict[str, str] = field(default_factory=dict)
    """places of key types that the study names itself"""
    notes: str | None = None
    """about the key types"""
    description: str = ""
    licence: str | None = None


class PretrainedLM(nn.Module):
    """A model of `transformers`; its taps are the context representations f(c) of equation 1."""

    def __init__(self, config: PretrainedConfig, lm: Any) -> None:
        super().__init__()
        self.config, self.lm, self.eos = config, lm, config.eos
        self.head: Any = lm.get_output_embeddings()
        self.softcap: float | None = config.transformers.get("final_logit_softcapping")
        self._recorded: dict[str, Tensor] | None = None
        table = places.family(config.architecture, config.transformers, config.taps)
        self._norm = _module(lm, table.norm) if table else None
        for name, tap in places.places(table, config.taps).items():
            if config.layers > 1 or not name.endswith(SECOND_LAST):
                self._record(name, tap)

    def cache(self) -> Any:
        """For `forward`: what attention keeps of the tokens read so far; nothing yet."""
        return huggingface.transformers().DynamicCache(config=self.lm.config)

    def forward(self, tokens: Tensor, taps: dict[str, Tensor] | None = None, cache: Any = None) -> Tensor:
        """tokens int64 [B, T] -> features [B, T, D], which follow the final norm and are the input of the head.

        Into `taps`, an empty dict, go the key types of the last layer by name, and those of the second-last layer with
        the suffix `-second_last`; each is [B, T, D]. `output_ln` is `output` without mean (where the model's own norm
        is a LayerNorm) and divided by its standard deviation (or, for RMSNorm, root mean square), without a learned
        scale, as the paper's model has none there.

        Where the model begins every text with a token of its own, that token is read in place of the end of the
        document before, and in place of the window's first token. With a `cache`, the tokens follow those that were
        read with it before, at the cost of the new ones only. Raises UserError for a window that is too long.
        """
        before = cache.get_seq_length() if cache is not None else 0
        if (length := before + tokens.shape[1]) > self.config.positions:
            raise UserError(
                f"a window of {length} tokens is longer than the {self.config.positions} that this model can "
                "read: lower windows.new or windows.context"
            )
        tokens = self._read(tokens.to(self.head.weight.device, non_blocking=True), begins=not before)
        body: Any = self.lm.base_model
        self._recorded = {} if taps is not None else None
        try:
            past = {} if cache is None else {"cache": cache}
            features = body(input_ids=tokens, use_cache=bool(past), **past).last_hidden_state
            if taps is not None and self._recorded is not None:
                taps |= {name: tensor.view(*tokens.shape, -1) for name, tensor in self._recorded.items()}
                for suffix in ("", SECOND_LAST):
                    if NORMALISED + suffix not in taps and "output" + suffix in taps and self._norm is not None:
                        taps[NORMALISED + suffix] = self._normalised(taps["output" + suffix])
        finally:
            self._recorded = None
        return features

    def _read(self, tokens: Tensor, begins: bool = True) -> Tensor:
        """The tokens with the one that begins every text put where `forward` says; `begins`: they begin a window."""
        if self.config.bos is None:
            return tokens
        tokens = torch.where(tokens == self.eos, self.config.bos, tokens)
        if begins:
            tokens[:, 0] = self.config.bos
        return tokens

    def target_logprob(self, features: Tensor, targets: Tensor) -> Tensor:
        """features [N, D], targets int64 [N] -> natural-log probabilities of the targets, float32 [N]."""
        rows = max(1, LOGITS // self.config.vocab_size)
        parts = zip(features.split(rows), targets.to(features.device).split(rows), strict=True)
        return torch.cat([-F.cross_entropy(self._logits(x), y, reduction="none") for x, y in parts])

    def logprob(self, features: Tensor) -> Tensor:
        """features [N, D] -> the full next-word distribution: natural-log probabilities, float32 [N, V]."""
        return F.log_softmax(self._logits(features), dim=-1)

    def _logits(self, features: Tensor) -> Tensor:
        logits = self.head(features).float()  # [N, V]
        return self.softcap * torch.tanh(logits / self.softcap) if self.softcap else logits

    def _normalised(self, output: Tensor) -> Tensor:
        if isinstance(self._norm, nn.LayerNorm):
            return F.layer_norm(output, output.shape[-1:], eps=self._norm.eps)
        eps = self.config.transformers["rms_norm_eps"]
        return (output.float() * torch.rsqrt(output.float().pow(2).mean(-1, keepdim=True) + eps)).to(output.dtype)

    def _record(self, name: str, tap: places.Tap) -> None:
        """Keep the tensor at `tap` whenever `forward` asks for taps."""
        module = _module(self.lm, tap.module)

        def keep(tensor: Any) -> None:
            if self._recorded is not None:
                self._recorded[name] = tensor[0] if isinstance(tensor, tuple) else tensor

        if tap.side == "output":
            module.register_forward_hook(lambda _, read, returned: keep(returned))
        else:
            module.register_forward_pre_hook(
                lambda _, read, named: keep(read[0] if read else named["hidden_states"]), with_kwargs=True
            )


def save(lm: PretrainedLM, directory: Path, dtype: torch.dtype) -> None:
    """Write config.json and model.safetensors, with weights in `dtype`, into an existing directory."""
    parameters = sum(parameter.numel() for parameter in lm.parameters())
    write_json(directory / "config.json", asdict(lm.config) | {"kind": KIND, "parameters": parameters})
    tied = set(getattr(lm.lm, "all_tied_weights_keys", {}))
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in lm.lm.state_dict().items() if name not in tied}
    save_file(weights, directory / "model.safetensors")


def load(directory: Path, device: str = "cpu") -> PretrainedLM:
    """The model of a directory that `save` wrote, in evaluation mode and float32."""
    facts = read_json(check(Path(directory) / "config.json"))
    path = check(Path(directory) / "model.safetensors")
    try:
        config = PretrainedConfig(**{name: facts[name] for name in PretrainedConfig.__dataclass_fields__})
    except KeyError as error:
        raise UserError(f"{directory}/config.json: key {error} is missing: import the model again") from None
    with huggingface.whole(path):
        state = load_file(path)
    return PretrainedLM(config, build(config.architecture, config.transformers, state, path)).eval().to(device)


def read(
    source: Path, words: Mapping[str, Any], own: Mapping[str, str], description: str = "", licence: str = ""
) -> tuple[PretrainedLM, torch.dtype]:
    """A published model, from its folder or GGUF file, and the dtype that holds its weights exactly.

    `words` is the content of the vocabulary's vocab.json, and `own` the study's taps. Raises UserError for a model that
    cannot be read, does not fit its vocabulary, or has logits that the head alone does not give.
    """
    settings, lm, dtype = _read_gguf(source, own) if source.is_file() else _read_folder(source, own)
    rows = lm.get_output_embeddings().weight.shape[0]
    if not rows - UNUSED_WORDS <= words["size"] <= rows:
        raise UserError(
            f"the vocabulary has {words['size']:,} tokens, the model {rows:,}: "
            "make the vocabulary from the same archive"
        )
    config = PretrainedConfig(
        architecture=settings["model_type"],
        dim=settings["hidden_size"],
        vocab_size=rows,
        layers=settings["num_hidden_layers"],
        positions=settings["max_position_embeddings"],
        eos=words["eos"],
        bos=words["bos"],
        transformers={name: value for name, value in settings.items() if name not in NOT_KEPT},
        taps=dict(own),
        notes=places.notes(settings["model_type"], settings),
        description=description,
        licence=licence or huggingface.licence(source),
    )
    for name, weight in lm.named_parameters():
        if not all(torch.isfinite(bound) for bound in weight.detach().aminmax()):
            raise UserError(f"{source}: {name}: found numbers that are not finite: fetch the model again")
    with huggingface.whole(source):  # settings that are impossible show when the model is run
        found = PretrainedLM(config, lm).eval()
        _try(found)
    return found, dtype


def build(model_type: str, settings: Mapping[str, Any], state: dict[str, Tensor], path: Path) -> Any:
    """The model with the weights of `state`, float32; raises UserError where they are not those of its architecture."""
    library = huggingface.transformers()
    with huggingface.whole(path):
        config = library.AutoConfig.for_model(**dict(settings) | {"model_type": model_type})
        kind = library.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        lm, loaded = kind.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=torch.float32,
            attn_implementation=_attention(kind),
            ignore_mismatched_sizes=True,  # they are among what is `loaded`
            output_loading_info=True,
        )
    _must_fit(loaded, path)
    return lm


def _read_folder(folder: Path, own: Mapping[str, str]) -> tuple[dict, Any, torch.dtype]:
    settings = huggingface.read_object(folder / "config.json")
    model_type = str(settings.pop("model_type", "not stated"))
    if method := settings.pop("quantization_config", None):
        how = method.get("quant_method") if isinstance(method, dict) else method
        raise UserError(
            f"{folder}/config.json: found weights quantized by {str(how)[:80]}, expected full precision: "
            "use the original weights, or a GGUF file of the model"
        )
    places.family(model_type, settings, own)
    state: dict[str, Tensor] = {}
    for path in huggingface.weight_files(folder):
        with huggingface.whole(path):
            state |= load_file(path)
    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    kept = {name: value for name, value in settings.items() if name not in (*NOT_KEPT, *OF_OTHER_USES)}
    _must_be_explained(model_type, kept, [weight.numel() for weight in state.values()], folder / "config.json")
    lm = build(model_type, kept, state, folder)
    return _settings(lm), lm, dtypes.pop() if len(dtypes) == 1 else torch.float32


def _read_gguf(path: Path, own: Mapping[str, str]) -> tuple[dict, Any, torch.dtype]:
    """The weights are dequantized to float32: float16 would change log-probabilities by about 0.01 nats."""
    reader = huggingface.gguf_reader(path)
    for name, stated in reader.fields.items():
        if name.endswith(".block_count"):
            _must_have_layers(name, stated.contents(), len(reader.tensors), path)
    library = huggingface.transformers()
    with huggingface.whole(path):
        where = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
        config = library.AutoConfig.from_pretrained(path.parent, **where)
        places.family(config.model_type, config.to_dict(), own)
        sizes = [int(tensor.n_elements) for tensor in reader.tensors]
        _must_be_explained(config.model_type, config.to_dict(), sizes, path)
        kind = library.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
            lm, loaded = kind.from_pretrained(
                path.parent,
                dtype=torch.float32,
                attn_implementation=_attention(kind),
                output_loading_info=True,
                **where,
            )
    _must_fit(loaded, path)
    return _settings(lm), lm, torch.float32


def _settings(lm: Any) -> dict:
    """All settings of the architecture, defaults too: a later version of the library may have others."""
    settings = json.loads(lm.config.to_json_string(use_diff=False))
    settings.pop("quantization_config", None)
    names = ("hidden_size", "num_hidden_layers", "max_position_embeddings")
    return settings | {name: getattr(lm.config, name) for name in names}  # GPT-2 has other names for them


def _attention(kind: Any) -> str:
    return "sdpa" if kind._supports_sdpa else "eager"  # Gemma 2 caps its attention logits, which SDPA cannot


def _must_be_explained(model_type: str, settings: Mapping[str, Any], sizes: list[int], path: Path) -> None:
    """Compare an architecture with the sizes of a file's weights, before memory is taken for it.

    The library fills what has no weight of the right shape with random numbers, however many they are.
    """
    for name in LAYERS:
        _must_have_layers(name, settings.get(name, 0), len(sizes), path)
    library = huggingface.transformers()
    with huggingface.whole(path), torch.device("meta"):
        config = library.AutoConfig.for_model(**dict(settings) | {"model_type": model_type})
        lm = library.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
        tables = (table for table in lm.buffers() if table.is_floating_point())  # of positions; masks are not
        needed = sum(weight.numel() for weight in (*lm.parameters(), *tables))
    if needed > (held := TIED * sum(sizes)):
        raise UserError(f"{path}: found sizes that need {needed:,} numbers, expected at most {held:,}, for its weights")


def _must_have_layers(name: str, layers: object, weights: int, path: Path) -> None:
    if not isinstance(layers, int) or layers > weights:
        raise UserError(
            f"{path}: {name}: found {str(layers)[:40]}, expected a number of layers for its {weights:,} weights"
        )


def _must_fit(loaded: Any, path: Path) -> None:
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys", "error_msgs"):
        if names := sorted(key if isinstance(key, str) else key[0] for key in loaded[what] or ()):
            raise UserError(f"{path}: {what.replace('_', ' ')} {names[0]}: its weights do not fit its architecture")


@torch.inference_mode()
def _try(lm: PretrainedLM) -> None:
    """Compare with the model's own logits, and the taps with the width of a key, on a few tokens."""
    tokens = torch.arange(8)[None] % lm.config.vocab_size
    recorded: dict[str, Tensor] = {}
    features = lm(tokens, recorded)
    for name, tap in recorded.items():
        if tap.shape != (*features.shape[:2], lm.config.dim):
            raise UserError(f"taps.{name}: found width {tap.shape[-1]}, expected {lm.config.dim}: name another module")
    own = lm.lm(input_ids=lm._read(tokens), use_cache=False).logits[0].float().log_softmax(-1)
    if not torch.allclose(lm.logprob(features[0]), own, atol=1e-3):
        raise UserError(f"{lm.config.architecture}: its logits are more than its head's output: not supported")


def _module(lm: nn.Module, path: str) -> nn.Module:
    """The module at a path from the root, in which a negative number counts from the end of a list."""
    module: Any = lm
    for name in path.split("."):
        try:
            module = module[int(name)] if name.lstrip("-").isdigit() else getattr(module, name)
        except (AttributeError, IndexError, TypeError):
            module = None
        if not isinstance(module, nn.Module):
            raise UserError(f"taps: {path}: the model has no module {name!r} there")
    return module
