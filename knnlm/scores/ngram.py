"""N-gram models by KenLM (interpolated modified Kneser-Ney), over token ids as words.

A document is one sentence to KenLM, in which the text's own `</s>` is a word like others. So every token is predicted
from the n-1 tokens before it in its document, also across the ends of lines.
"""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from knnlm.artifacts.files import UserError

NATS = float(np.log(10))  # KenLM's logarithms are decimal


def find_lmplz(given: Path | None = None) -> str:
    """KenLM's lmplz: `given`, or the one beside the running Python, or on PATH; raises UserError without one."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(str(given or "lmplz"), path=None if given else os.pathsep.join([beside, os.environ["PATH"]]))
    if not found:
        raise UserError(f"{given or 'lmplz'}: no such program; build it with setup/kenlm.sh .venv, or name it: --lmplz")
    return found


def split_documents(tokens: np.ndarray, documents: np.ndarray) -> Iterator[np.ndarray]:
    """Each document's tokens: tokens [N], documents [D] start offsets."""
    for start, end in zip(documents, [*documents[1:], len(tokens)], strict=True):
        yield tokens[start:end]


def estimate(tokens: np.ndarray, documents: np.ndarray, order: int, out: Path, lmplz: str, memory: str = "1G") -> None:
    """Write the ARPA file `out` of an n-gram model of `order`; tokens [N], documents [D]. Raises UserError."""
    command = [lmplz, "--order", str(order), "--arpa", str(out), "--memory", memory, "--temp_prefix", str(out)]
    # A small corpus can lack the counts that the discounts are estimated from.
    command += ["--discount_fallback", "--skip_symbols"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log)
        try:
            assert process.stdin is not None  # it is a pipe
            with process.stdin as stream:
                for document in split_documents(tokens, documents):
                    stream.write((" ".join(map(str, document.tolist())) + "\n").encode())
        except BrokenPipeError:
            pass  # lmplz ended early; its own message says why
        if process.wait():
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines() or ["no message"]
            if os.strerror(errno.ENOSPC) in lines[-1]:
                raise OSError(errno.ENOSPC, lines[-1])
            raise UserError(f"lmplz --order {order} failed: {lines[-1]}")


def target_logprob(model: Path, tokens: np.ndarray, documents: np.ndarray, vocab_size: int) -> np.ndarray:
    """log p of every token given the n-1 before it in its document: [N] float32 nats, always finite.

    tokens [N], documents [D] start offsets. The model has one probability for all words it has never seen. The
    vocabulary's unseen words share it equally. The probabilities of the vocabulary's words sum to one less KenLM's
    probability for an end of the document, which is not scored.
    """
    import kenlm

    quiet = kenlm.Config()
    quiet.show_progress, quiet.arpa_complain = False, kenlm.ARPALoadComplain.NONE
    try:
        lm = kenlm.Model(str(model), quiet)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{model}: KenLM cannot read it ({str(error).splitlines()[0]}): run setup/kenlm.sh .venv"
        ) from None
    words = [str(word) for word in range(vocab_size)]
    unseen = sum(word not in lm for word in words)
    out = np.empty(len(tokens), np.float32)
    n = 0
    for document in split_documents(tokens, documents):
        text = " ".join([words[token] for token in document.tolist()])
        for logprob, _, unknown in lm.full_scores(text, bos=True, eos=False):
            out[n] = logprob * NATS - (np.log(unseen) if unknown else 0.0)
            n += 1
    return out
