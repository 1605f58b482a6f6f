"""The LM's distribution over the next word at each token of a held-out text, in the study's own windows."""

from collections.abc import Iterator

import numpy as np
import torch

from knnlm.artifacts.cli import progress
from knnlm.live.layout import KnnLM
from knnlm.models import features, model, windows

LOGITS = 1 << 24  # of the LM's distributions that are in memory at a time


@torch.inference_mode()
def blocks(
    source: KnnLM, tokens: np.ndarray, count: int, batch_tokens: int
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Positions [B] among the first `count` tokens and the LM's log-probabilities [B, V] there, nats, float32."""
    lm, sizes = model.load(source.model, features.device()), source.windows
    chosen = windows.evaluation(tokens, sizes, lm.eos)
    chosen = chosen.take(np.flatnonzero(chosen.start < count))
    step = max(1, LOGITS // lm.config.vocab_size)
    with progress(None, "LM", count, "token") as bar:
        for block in features.stream(lm, tokens, chosen, sizes.length, (features.HEAD_INPUT,), batch_tokens):
            for start in range(0, len(block.ids), step):
                ids = block.ids[start : start + step]
                output = torch.from_numpy(block.keys[features.HEAD_INPUT][start : start + step]).to(features.device())
                wanted = ids < count
                yield ids[wanted], lm.logprob(output).cpu()[torch.from_numpy(wanted)]
                bar.update(int(wanted.sum()))
