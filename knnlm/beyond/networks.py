"""Mixers that are small networks, trained on nine tenths of dev by documents; the last tenth says when to stop."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knnlm.beyond import contexts, mixers
from knnlm.beyond.mixers import Mixed, mixer
from knnlm.beyond.signals import Signals

WIDTH, LAYERS = 128, 5  # He et al. (2021, section 4)
PENALTY = 0.05  # times the mean λ: their L1 penalty, which asks for few searches
EPOCHS, PATIENCE, BATCH, RATE = 60, 8, 1024, 5e-4
HELD = 10  # the last of so many parts of dev's documents is not trained on


@mixer
def network(dev: Signals, test: Signals, seed: int = 1, penalty: float = PENALTY) -> Mixed:
    """λ from a network of five layers of 128 (He et al. 2021).

    Its inputs are the context vector, log frequency and log fertility of the n-grams that end the context in the
    training text, and entropy and largest log-probability of the LM's distribution.
    """
    inputs = [torch.cat([vectors(split), torch.from_numpy(contexts.inputs(split))], 1) for split in (dev, test)]

    def loss(outputs: Tensor, lm: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
        gate = outputs[:, 0]
        logprob = torch.logaddexp(F.logsigmoid(gate) + near[:, 0], F.logsigmoid(-gate) + lm)
        return -logprob.mean() + penalty * gate.sigmoid().mean(), -logprob.mean()

    found = fitted(dev, inputs, 1, dev.knn[:, None], loss, seed)
    gates = [torch.sigmoid(outputs[:, 0]).double().numpy() for outputs in found]
    mixed = [mixers.by_token(split.lm, split.knn, gate) for split, gate in zip((dev, test), gates, strict=True)]
    facts = {"inputs": inputs[0].shape[1], "mean of λ on test": float(gates[1].mean())}
    return Mixed(mixed[0], mixed[1], facts, (gates[0], gates[1]))


@mixer
def meta_k(dev: Signals, test: Signals, seed: int = 1, temperature: float | None = None) -> Mixed:
    """Weights over k ∈ {0, 1, 2, 4, …} from a network of distances and counts of distinct values (Zheng et al. 2021).

    k = 0 is the LM. `temperature` of p_kNN: by default the one that `joint` chooses on dev.
    """
    if temperature is None:
        temperature = mixers.joint(dev, test).facts["temperature"]
    widest = dev.stored.shape[1]
    ks = [2**power for power in range(widest.bit_length()) if 2**power <= widest]
    near = [mixers.scored_for_ks(split, ks, temperature).T for split in (dev, test)]  # [N, K] each
    inputs = [torch.from_numpy(seen(split, ks, temperature)) for split in (dev, test)]

    def loss(outputs: Tensor, lm: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
        parts = torch.cat([lm[:, None], near], 1)
        logprob = torch.logsumexp(outputs.log_softmax(1) + parts, 1)
        return -logprob.mean(), -logprob.mean()

    found = fitted(dev, inputs, 1 + len(ks), near[0], loss, seed)
    mixed = []
    for split, outputs, parts in zip((dev, test), found, near, strict=True):
        logprobs = torch.from_numpy(np.column_stack([split.lm, parts]).astype(np.float64))
        mixed.append(torch.logsumexp(outputs.double().log_softmax(1) + logprobs, 1).numpy())
    weights = found[1].softmax(1).mean(0)
    return Mixed(mixed[0], mixed[1], {"temperature": temperature, "weight of the LM on test": float(weights[0])})


def seen(split: Signals, ks: list[int], temperature: float) -> np.ndarray:
    """What meta_k sees of each token: distances and log counts of distinct values at each k, [N, 2 K] float32."""
    found = []
    for block in mixers.blocks(len(split.lm)):
        distances, values = split.distances(block), split.values[block]
        at = np.minimum(distances[:, [k - 1 for k in ks]], np.finfo(np.float16).max) / temperature
        found.append(np.column_stack([at, np.log(distinct(np.asarray(values), ks))]).astype(np.float32))
    return np.concatenate(found)


def distinct(values: np.ndarray, ks: list[int]) -> np.ndarray:
    """How many different values the first k neighbors have, for each k: [B, K] -> [B, len(ks)]."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, 1)
    first = np.ones(values.shape, bool)  # of the neighbors with the same value, the nearest one
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    is_first = np.zeros(values.shape, bool)
    np.put_along_axis(is_first, order, first, 1)
    return np.cumsum(is_first, axis=1)[:, [k - 1 for k in ks]]


def vectors(split: Signals) -> Tensor:
    return torch.from_numpy(mixers.context_vectors(split).astype(np.float32))


def fitted(
    dev: Signals,
    inputs: list[Tensor],
    outputs: int,
    near: np.ndarray,
    loss: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    seed: int,
) -> list[Tensor]:
    """A network's outputs [N, outputs] for dev and for test, trained on dev alone.

    `near` [N, M] are dev's log p_kNN. `loss` of (outputs, log p_LM, log p_kNN) gives what is minimised and what decides
    when to stop. A target that kNN gives no probability has -1e4 nats in place of -inf, whose gradient is not a number.
    """
    torch.manual_seed(seed)
    mean, deviation = inputs[0].mean(0), inputs[0].std(0).clamp_min(1e-6)
    scaled = [(split - mean) / deviation for split in inputs]
    sizes = [inputs[0].shape[1], *[WIDTH] * (LAYERS - 1)]
    hidden = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU(), nn.Dropout(0.2))]
    net = nn.Sequential(*hidden, nn.Linear(WIDTH, outputs))
    lm, knn = torch.from_numpy(np.array(dev.lm)), torch.from_numpy(np.maximum(near, -1e4).astype(np.float32))
    first = int(dev.documents[len(dev.documents) - max(1, len(dev.documents) // HELD)])
    first = first or len(dev.lm) * (HELD - 1) // HELD  # a single document is divided by its tokens
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE, weight_decay=1e-4)
    order, best, state, waited = np.random.default_rng(seed), math.inf, net.state_dict(), 0
    for _ in range(EPOCHS):
        net.train()
        for rows in torch.from_numpy(order.permutation(first)).split(BATCH):
            optimizer.zero_grad()
            loss(net(scaled[0][rows]), lm[rows], knn[rows])[0].backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            held = float(loss(net(scaled[0][first:]), lm[first:], knn[first:])[1])
        if held < best:
            best, waited, state = held, 0, {name: value.clone() for name, value in net.state_dict().items()}
        elif (waited := waited + 1) == PATIENCE:
            break
    net.load_state_dict(state)
    with torch.no_grad():
        return [net(split) for split in scaled]
