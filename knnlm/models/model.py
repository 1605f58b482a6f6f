"""The paper's Transformer language model, whose forward pass can return its named intermediates."""

import json
import math
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from knnlm.artifacts.cli import checked
from knnlm.artifacts.description import check
from knnlm.artifacts.files import UserError, read_json
from knnlm.models.adaptive import PAD, AdaptiveEmbedding, AdaptiveSoftmax
from knnlm.models.windows import EOS
from knnlm.settings import LAYER_KEYTYPES, SECOND_LAST, ModelConfig

BEFORE_FFN, AFTER_FFN = LAYER_KEYTYPES[:4], LAYER_KEYTYPES[4:]


class Attention(nn.Module):
    """Multi-head causal self-attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.attention_dropout
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        for weight in self.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(weight, gain=2**-0.5)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, past: dict[str, Tensor] | None = None) -> Tensor:
        """x [B, T, D] -> [B, T, D]; `past` has the keys and values of the tokens before and receives those of x."""
        batch, time, dim = x.shape
        q, k, v = self.qkv(x).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # [B, heads, T, d]
        mask = None
        if past:
            k, v = torch.cat([past["k"], k], dim=2), torch.cat([past["v"], v], dim=2)  # [B, heads, before + T, d]
            mask = torch.ones(time, k.shape[2], dtype=torch.bool, device=x.device).tril(k.shape[2] - time)
        if past is not None:
            past.update(k=k, v=v)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None)
        return self.out(attended.transpose(1, 2).reshape(batch, time, dim))


class Layer(nn.Module):
    """A Transformer block with layer norms before attention and feed-forward network.

    `forward` can record the six representations that Table 5 compares as keys (Figure 3).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.attention_norm = nn.LayerNorm(config.dim)
        self.attention = Attention(config)
        self.ffn_norm = nn.LayerNorm(config.dim)
        self.ffn_in = nn.Linear(config.dim, config.ffn_dim)
        self.ffn_out = nn.Linear(config.ffn_dim, config.dim)
        for linear in (self.ffn_in, self.ffn_out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        x: Tensor,
        taps: dict[str, Tensor] | None = None,
        past: dict[str, Tensor] | None = None,
        ffn: bool = True,
    ) -> Tensor:
        """x [B, T, D] -> [B, T, D]; `taps` receives {keytype: [B, T, D]}; `past` is that of the attention.

        Without `ffn`, its input is the last thing that is computed, and what is returned is no feature.
        """
        attention_input = self.attention_norm(x)
        ffn_residual = x + F.dropout(self.attention(attention_input, past), self.config.dropout, self.training)
        ffn_input = self.ffn_norm(ffn_residual)
        if taps is not None:
            taps.update(zip(BEFORE_FFN, (x, attention_input, ffn_residual, ffn_input), strict=True))
        if not ffn:
            return ffn_residual
        hidden = F.dropout(F.relu(self.ffn_in(ffn_input)), self.config.activation_dropout, self.training)
        output = ffn_residual + F.dropout(self.ffn_out(hidden), self.config.dropout, self.training)
        if taps is not None:
            # The published model has no norm after its last layer: output_ln is one without learned scale.
            output_ln = F.layer_norm(output, output.shape[-1:])
            taps.update(zip(AFTER_FFN, (output, output_ln), strict=True))
        return output


class LanguageModel(nn.Module):
    """A Transformer decoder; its taps are the context representations f(c) of equation 1."""

    eos = EOS  # the token that ends a line or document

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        if config.adaptive_cutoffs:
            self.embedding = AdaptiveEmbedding(
                config.vocab_size, config.dim, config.adaptive_cutoffs, config.adaptive_factor
            )
            self.softmax = AdaptiveSoftmax(self.embedding, config.adaptive_dropout)
        else:
            self.embedding = nn.Embedding(config.vocab_size, config.dim)
            nn.init.normal_(self.embedding.weight, std=config.dim**-0.5)
            nn.init.zeros_(self.embedding.weight[PAD])
            self.softmax = None if config.tie_embeddings else nn.Linear(config.dim, config.vocab_size, bias=False)
            if self.softmax is not None:
                nn.init.normal_(self.softmax.weight, std=config.dim**-0.5)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self._positions: Tensor | None = None

    def cache(self) -> list[dict[str, Tensor]]:
        """For `forward`: what each layer's attention keeps of the tokens read so far; nothing yet."""
        return [{} for _ in self.layers]

    def forward(
        self,
        tokens: Tensor,
        taps: dict[str, Tensor] | None = None,
        cache: list[dict[str, Tensor]] | None = None,
        last_ffn: bool = True,
    ) -> Tensor:
        """tokens int64 [B, T] -> features [B, T, D], the input of the softmax.

        With a `cache`, the tokens follow those that were read with it before, at the cost of the new ones only.
        Tokens may be in the CPU's memory where the model is on a GPU; an adaptive embedding then does not wait for it.
        Into `taps`, an empty dict, go the key types of the last layer by name, and those of the second-last layer with
        the suffix `-second_last`; each is [B, T, D]. Without the `last_ffn`, the last layer ends at its input: enough
        for most key types, and nothing else.
        """
        where = next(self.parameters()).device
        if isinstance(self.embedding, nn.Embedding):
            tokens = tokens.to(where, non_blocking=True)
        before = cache[0]["k"].shape[2] if cache and cache[0] else 0
        sinusoids = self._sinusoids(before + tokens.shape[1], where)[before:]
        x = math.sqrt(self.config.dim) * self.embedding(tokens) + sinusoids
        x = F.dropout(x, self.config.dropout, self.training)
        recorded: list[dict[str, Tensor]] = []
        for layer, past in zip(self.layers, cache or [None] * len(self.layers), strict=True):
            recorded.append({})
            last = len(recorded) == len(self.layers)
            tapped = taps is not None and len(recorded) > len(self.layers) - 2
            x = layer(x, recorded[-1] if tapped else None, past, last_ffn or not last)
        if taps is not None:
            taps |= recorded[-1]
            if len(recorded) > 1:
                taps |= {name + SECOND_LAST: tap for name, tap in recorded[-2].items()}
        return x

    def target_logprob(self, features: Tensor, targets: Tensor) -> Tensor:
        """features [N, D], targets int64 [N] -> natural-log probabilities of the targets, float32 [N].

        Targets may be in the CPU's memory where the model is on a GPU; an adaptive softmax then does not wait for it.
        """
        if isinstance(self.softmax, AdaptiveSoftmax):
            return self.softmax.target_logprob(features, targets)
        targets = targets.to(features.device, non_blocking=True)
        return -F.cross_entropy(self._logits(features).float(), targets, reduction="none")

    def logprob(self, features: Tensor) -> Tensor:
        """features [N, D] -> the full next-word distribution: natural-log probabilities, float32 [N, V]."""
        if isinstance(self.softmax, AdaptiveSoftmax):
            return self.softmax.logprob(features)
        return F.log_softmax(self._logits(features), dim=-1, dtype=torch.float32)

    def _logits(self, features: Tensor) -> Tensor:
        return F.linear(features, (self.softmax or self.embedding).weight)

    def _sinusoids(self, time: int, device: torch.device) -> Tensor:
        """Embeddings of the positions 2, 3, … [T, D]: sines in the first half, cosines in the second, as published."""
        if self._positions is None or len(self._positions) < time or self._positions.device != device:
            half = self.config.dim // 2
            frequencies = torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
            angles = torch.arange(PAD + 1, PAD + 1 + time)[:, None] * frequencies  # [T, D/2]
            self._positions = torch.cat([angles.sin(), angles.cos()], dim=1).to(device)
        return self._positions[:time]


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def save(model: LanguageModel, directory: Path) -> None:
    """Write config.json and model.safetensors into an existing directory; a pretrained model's as its import does."""
    if not isinstance(model, LanguageModel):
        from knnlm.models import pretrained

        pretrained.save(model, directory, torch.float32)
        return
    facts = {"vocab_size": model.config.vocab_size} | model.config.model_dump() | {"parameters": parameter_count(model)}
    (directory / "config.json").write_text(json.dumps(facts, indent=1) + "\n")
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, directory / "model.safetensors"
    )


def load(directory: Path, device: str = "cpu") -> LanguageModel:
    """The model of a directory, in evaluation mode; raises UserError where its weights do not fit its config."""
    facts = read_json(check(Path(directory) / "config.json"))
    if facts.get("kind") == "pretrained":
        from knnlm.models import pretrained

        return cast(LanguageModel, pretrained.load(directory, device))  # has the same interface
    if "model_type" in facts:
        raise UserError(f"{directory}: found a model of Hugging Face, expected one of ours: knnlm import_pretrained")
    facts.pop("parameters", None)
    model = LanguageModel(checked(ModelConfig, facts, f"{directory}/config.json"))
    path = check(Path(directory) / "model.safetensors")
    try:
        model.load_state_dict(load_file(path))
    except Exception as error:  # safetensors and torch raise their own kinds
        raise UserError(f"{path}: does not fit its config.json ({str(error).splitlines()[-1].strip()})") from None
    return model.eval().to(device)
