"""Cases of the language model: training, and the forward pass over a datastore's tokens."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import inputs
from benchmarks.harness import Sides, case
from knnlm.artifacts import description
from knnlm.datastores import extract
from knnlm.models import model, train, windows
from knnlm.models.model import LanguageModel
from knnlm.settings import ModelConfig, TrainingSettings, WindowSettings

MINI = {"attention_dropout": 0.0, "activation_dropout": 0.0, "adaptive_dropout": 0.0, "dropout": 0.1}
UPDATES = 20  # of each side in a run


class Plain(nn.Module):
    """The same model built from PyTorch's own modules with the weights of `lm`, except that its softmax is not tied."""

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__()
        config = lm.config
        self.scale, self.edges = config.dim**0.5, (0, *config.adaptive_cutoffs, config.vocab_size)
        self.drop = nn.Dropout(config.dropout)
        layer = nn.TransformerEncoderLayer(
            config.dim, config.heads, config.ffn_dim, config.dropout, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        for mine, its in zip(self.body.layers, lm.layers, strict=True):
            mine.self_attn.dropout = mine.dropout.p = 0.0  # as mini's recipe: none within attention and FFN
            mine.self_attn.in_proj_weight.data = its.attention.qkv.weight.data.clone()
            mine.self_attn.in_proj_bias.data = its.attention.qkv.bias.data.clone()
            for own, source in (
                (mine.self_attn.out_proj, its.attention.out),
                (mine.linear1, its.ffn_in),
                (mine.linear2, its.ffn_out),
                (mine.norm1, its.attention_norm),
                (mine.norm2, its.ffn_norm),
            ):
                own.load_state_dict(source.state_dict())
        self.positions = lm._sinusoids(4096, torch.device("cpu"))
        if config.adaptive_cutoffs:
            self._adaptive(lm, config)
        else:
            self.embedding = nn.Embedding.from_pretrained(lm.embedding.weight.data.clone(), freeze=False)
            self.softmax = nn.Linear(config.dim, config.vocab_size, bias=False)
            self.softmax.weight.data = lm.softmax.weight.data.clone()

    def _adaptive(self, lm: LanguageModel, config: ModelConfig) -> None:
        bands = list(zip(lm.embedding.words, lm.embedding.projections, strict=True))
        self.words = nn.ModuleList(nn.Embedding.from_pretrained(w.weight.data.clone(), freeze=False) for w, _ in bands)
        self.projections = nn.ModuleList(nn.Linear(p.in_features, config.dim, bias=False) for _, p in bands)
        for mine, (_, its) in zip(self.projections, bands, strict=True):
            mine.load_state_dict(its.state_dict())
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(
            config.dim, config.vocab_size, list(config.adaptive_cutoffs), config.adaptive_factor
        )
        self.softmax.head.weight.data = torch.cat([bands[0][0].weight.data, lm.softmax.tails.weight.data])
        for tail, (words, projection) in zip(self.softmax.tail, bands[1:], strict=True):
            tail[0].weight.data = projection.weight.data.t().clone()
            tail[1].weight.data = words.weight.data.clone()

    def embed(self, tokens: Tensor) -> Tensor:
        if hasattr(self, "embedding"):
            return self.embedding(tokens)
        out = torch.zeros(*tokens.shape, self.projections[0].out_features)
        for low, high, words, project in zip(self.edges, self.edges[1:], self.words, self.projections, strict=False):
            inside = (tokens >= low) & (tokens < high)
            out[inside] = project(words(tokens[inside] - low))
        return out

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean nats per token."""
        x = self.drop(self.scale * self.embed(tokens) + self.positions[: tokens.shape[1]])
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        features = self.body(x, mask=mask, is_causal=True).flatten(0, 1)
        if hasattr(self, "embedding"):
            return F.cross_entropy(self.softmax(features), targets.flatten())
        return self.softmax(features, targets.flatten()).loss


def training(architecture: dict, batch: int, scale: float) -> Sides:
    """Tokens per second of an update of `batch` tokens: AdamW, clipped gradients, as the mini study trains."""
    torch.manual_seed(1)
    config = ModelConfig(layers=4, **architecture, **MINI)
    recipe = TrainingSettings(
        optimizer="adamw", lr=1e-4, updates=10**6, tokens_per_update=batch, tokens_per_batch=batch, block=256
    )
    tokens = inputs.zipf(np.random.default_rng(9), 1_000_000, config.vocab_size).astype(np.uint16)
    state = train.begin(config, recipe, 1)
    plain = Plain(state.model)
    optimizer = torch.optim.AdamW(plain.parameters(), recipe.lr, betas=(0.9, 0.98), weight_decay=0.0)
    updates = max(1, int(UPDATES * scale))
    blocks = tokens[: -(len(tokens) % 256) or None].astype(np.int64).reshape(-1, 256)

    def ours() -> None:
        for _ in range(updates):
            train.update(state, tokens, recipe, 1)
            state.update += 1

    def other() -> None:
        plain.train()
        for first in range(0, updates * batch // 256, batch // 256):
            targets = torch.from_numpy(blocks[first : first + batch // 256])
            shifted = F.pad(targets, (1, 0), value=2)[:, :-1]
            optimizer.zero_grad()
            loss = plain.loss(shifted, targets)
            loss.backward()
            loss.item()
            nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
            optimizer.step()

    agree(state.model, plain, torch.from_numpy(blocks[:2]))

    def same(*_: None) -> str:
        reached = products(config, batch) * updates / shortest(ours)
        return f"{reached / gemm_peak():.0%} of the GEMM peak in matrix products alone"

    return Sides(ours, other, same, updates * batch, "tokens")


def agree(lm: LanguageModel, plain: Plain, tokens: Tensor) -> None:
    """Raise unless both models have the same loss before training."""
    with torch.no_grad():
        mine = -lm.eval().target_logprob(lm(tokens).flatten(0, 1), tokens.flatten()).mean()
        torch.testing.assert_close(plain.eval().loss(tokens, tokens), mine, rtol=1e-4, atol=1e-4)


def products(config: ModelConfig, batch: int) -> float:
    """Floating-point operations of an update's matrix products, forward and backward; tails see half of the tokens."""
    layer = 4 * config.dim**2 + 2 * config.dim * config.ffn_dim + 256 * config.dim  # attends to half a block on average
    edges = (*config.adaptive_cutoffs, config.vocab_size)
    softmax = config.dim * (edges[0] + len(edges) - 1)
    share = np.log(np.array(edges) + 1) / np.log(config.vocab_size)  # of targets below each edge, as inputs.zipf draws
    for band in range(1, len(edges)):
        width = config.dim // config.adaptive_factor**band
        softmax += (share[band] - share[band - 1]) * width * (config.dim + edges[band] - edges[band - 1])
    return 6 * batch * (config.layers * layer + softmax)


def gemm_peak(size: int = 2048) -> float:
    a = torch.randn(size, size)
    return 2 * size**3 / shortest(lambda: a @ a)


def shortest(function, repeats: int = 3) -> float:
    took = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        function()
        took.append(time.perf_counter() - began)
    return min(took[1:])


SMALL = {"vocab_size": 33_000, "dim": 128, "ffn_dim": 512, "heads": 4, "adaptive_cutoffs": (4000, 12000)}
PLAIN = "the same model of plain PyTorch modules, AdamW"
ADAPTIVE = "the same model of plain PyTorch modules, `AdaptiveLogSoftmaxWithLoss`, AdamW"


@case("train-128", "training, d 128, 4 layers, adaptive softmax of 33k words, 512 tokens an update", ADAPTIVE, "≥ 1.3×")
def train_128(_: Path, scale: float) -> Sides:
    return training(SMALL, 512, scale)


@case("train-256", "the same, d 256, 2048 tokens an update", ADAPTIVE, "≥ 70% of the GEMM peak")
def train_256(_: Path, scale: float) -> Sides:
    return training(SMALL | {"dim": 256, "ffn_dim": 1024}, 2048, scale / 2)


@case("train-8k", "training, d 128, 4 layers, plain softmax of 8k words, 512 tokens an update", PLAIN, "≥ 1.3×")
def train_8k(_: Path, scale: float) -> Sides:
    return training({"vocab_size": 8000, "dim": 128, "ffn_dim": 512, "heads": 4}, 512, scale)


@case(
    "extract",
    "`knnlm extract`: keys of 128 and values to disk",
    "the LM's forward pass alone, nothing kept",
    "≤ +15%",
)
def extraction(folder: Path, scale: float) -> Sides:
    torch.manual_seed(1)
    config, sizes, batch = ModelConfig(layers=4, **SMALL, **MINI), WindowSettings(new=192, context=64), 8192
    directory, out = folder / "lm", folder / "keys"
    if not directory.exists():
        directory.mkdir()
        model.save(LanguageModel(config), directory)
        description.write_meta(directory, "train", {}, {})
        np.save(
            folder / "tokens.npy", inputs.zipf(np.random.default_rng(9), int(4e5 * scale), 33_000).astype(np.uint16)
        )
    tokens = np.load(folder / "tokens.npy")
    wanted = json.dumps({"new": sizes.new, "context": sizes.context})
    asked = extract.ExtractConfig(
        directory, folder / "tokens.npy", ("ffn_input_ln",), (out,), windows=wanted, batch_tokens=batch
    )
    chosen = windows.datastore(len(tokens), sizes, asked.seed)
    lm = model.load(directory)

    @torch.inference_mode()
    def forward() -> Tensor:
        rows = batch // sizes.length
        for first in range(0, len(chosen.start), rows):
            part = chosen.take(np.arange(first, min(first + rows, len(chosen.start))))
            taps: dict[str, Tensor] = {}
            lm(torch.from_numpy(windows.batch(tokens, part, sizes.length)[0]), taps)
        last = taps["ffn_input_ln"][-1]
        return last[sizes.context : sizes.context + int(part.end[-1] - part.start[-1])]

    def same(_: None, last: Tensor) -> None:
        stored = np.load(out / "keys.npy", mmap_mode="r")
        assert len(stored) == chosen.tokens
        np.testing.assert_allclose(stored[-len(last) :], last, rtol=2e-3, atol=1e-2)

    def extracted() -> None:
        shutil.rmtree(out, ignore_errors=True)
        extract.main(asked)

    return Sides(extracted, forward, same, chosen.tokens, "tokens", overhead=True)
