"""Adaptive input embeddings and adaptive softmax with tied weights (Baevski & Auli, 2019; paper, Section 4.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAD = 1


class AdaptiveEmbedding(nn.Module):
    """Word embeddings in bands: band i holds the words [cutoffs[i-1], cutoffs[i]).

    Its embeddings have dim // factor^i components, which a linear projection maps to dim.
    """

    def __init__(self, vocab_size: int, dim: int, cutoffs: tuple[int, ...], factor: int) -> None:
        super().__init__()
        self.edges = [0, *cutoffs, vocab_size]  # band i is [edges[i], edges[i+1])
        widths = [dim // factor**i for i in range(len(cutoffs) + 1)]
        sizes = [high - low for low, high in zip(self.edges[:-1], self.edges[1:], strict=True)]
        self.words = nn.ModuleList(nn.Embedding(n, w, PAD) for n, w in zip(sizes, widths, strict=True))
        self.projections = nn.ModuleList(nn.Linear(w, dim, bias=False) for w in widths)
        for words, projection in zip(self.words, self.projections, strict=True):
            nn.init.normal_(words.weight, std=words.embedding_dim**-0.5)
            nn.init.zeros_(words.weight[PAD])  # row PAD of every band, as published; it gets no gradient as an input
            nn.init.xavier_uniform_(projection.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens int64 [B, T] -> embeddings [B, T, D].

        The tokens of each band are found where `tokens` are: in the CPU's memory, without waiting for a GPU.
        """
        flat, where = tokens.flatten(), self.projections[0].weight.device
        out = self.projections[0].weight.new_empty(len(flat), self.projections[0].out_features)  # [B*T, D]
        parts, positions = [], []
        for low, high, words, project in zip(
            self.edges[:-1], self.edges[1:], self.words, self.projections, strict=True
        ):
            inside = torch.nonzero((flat >= low) & (flat < high)).squeeze(1)
            parts.append(project(words(_sent(flat[inside] - low, where))))
            positions.append(_sent(inside, where))
        out = out.to(parts[0].dtype).index_copy(0, torch.cat(positions), torch.cat(parts))
        return out.view(*tokens.shape, -1)


class AdaptiveSoftmax(nn.Module):
    """A softmax in two steps: the head chooses a word of band 0 or another band (a tail), a tail then its word.

    The logits of tail i are the features times the embedding's projection of band i, transposed, times its words. Only
    the weights of the head's logits for the tails are its own; all others are the embedding's.
    """

    def __init__(self, embedding: AdaptiveEmbedding, dropout: float) -> None:
        super().__init__()
        self.embedding = [embedding]  # in a list: a tied module must not be registered twice
        self.dropout = dropout
        self.tails = nn.Linear(embedding.projections[0].out_features, len(embedding.words) - 1, bias=False)
        nn.init.xavier_uniform_(self.tails.weight)

    def target_logprob(self, features: Tensor, targets: Tensor) -> Tensor:
        """features [N, D], targets int64 [N] -> natural-log probabilities of the targets, float32 [N].

        As in the embedding, a GPU is not waited for where the targets are in the CPU's memory.
        """
        embedding, where = self.embedding[0], features.device
        features = F.dropout(features, self.dropout, self.training)
        head_targets, tail_rows = targets, []
        for band in range(1, len(embedding.words)):
            low, high = embedding.edges[band : band + 2]
            inside = (targets >= low) & (targets < high)
            head_targets = torch.where(inside, embedding.edges[1] + band - 1, head_targets)
            tail_rows.append(torch.nonzero(inside).squeeze(1))
        logprob = _gathered_logprob(self._head(features), _sent(head_targets, where))  # [N]
        for band, inside in enumerate(tail_rows, start=1):
            if len(inside):
                words, rows = _sent(targets[inside] - embedding.edges[band], where), _sent(inside, where)
                logprob = logprob.index_add(0, rows, _gathered_logprob(self._tail(features[rows], band), words))
        return logprob

    def logprob(self, features: Tensor) -> Tensor:
        """features [N, D] -> natural-log probabilities of all words, float32 [N, V]."""
        head = F.log_softmax(self._head(features), dim=-1, dtype=torch.float32)
        first = self.embedding[0].edges[1]
        bands = [head[:, :first]]
        for band in range(1, len(self.embedding[0].words)):
            tail = F.log_softmax(self._tail(features, band), dim=-1, dtype=torch.float32)
            bands.append(tail + head[:, first + band - 1, None])
        return torch.cat(bands, dim=1)

    def _head(self, features: Tensor) -> Tensor:
        weights = [self.embedding[0].words[0].weight, self.tails.weight]
        rows = sum(map(len, weights))  # band 0 + tails
        if padding := -rows % _row_multiple(features.device):
            weights.append(self.tails.weight.new_zeros(padding, features.shape[-1]))
        return F.linear(features, torch.cat(weights))[:, :rows]

    def _tail(self, features: Tensor, band: int) -> Tensor:
        projected = F.linear(features, self.embedding[0].projections[band].weight.t())
        projected = F.dropout(projected, self.dropout, self.training)
        return F.linear(projected, self.embedding[0].words[band].weight)


def _row_multiple(where: torch.device) -> int:
    """Of which number a matrix has a multiple of rows, where products with such matrices are several times as fast."""
    return 8 if where.type == "cuda" else 1  # tensor cores in half precision


def _sent(indices: Tensor, where: torch.device) -> Tensor:
    """The indices on another device, which receives them while the program goes on."""
    return indices.to(where, non_blocking=True)


def _gathered_logprob(logits: Tensor, targets: Tensor) -> Tensor:
    return -F.cross_entropy(logits.float(), targets, reduction="none")
