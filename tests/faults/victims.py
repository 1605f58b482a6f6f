"""Run any verb that writes files, on small inputs, in a process that can be killed at a chosen moment."""

import contextlib
import functools
import hashlib
import http.server
import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import synthetic
import test_pretrained
import tinystudy
import yaml
from conftest import ROOT

from knnlm.__main__ import main
from knnlm.corpora import build_vocab

MODULES = {path.stem: f"knnlm.{path.parent.name}.{path.stem}" for path in (ROOT / "knnlm").glob("*/*.py")}
PARAGRAPHS = (Path(__file__).parent / "commands.txt").read_text().split("\n\n")
COMMANDS = {words[0]: words[1:] for words in (shlex.split(text.replace("\n", " ")) for text in PARAGRAPHS)}
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
IMPORTED_LATE = (
    "torch._dynamo",
    "transformers",
    "sentencepiece",
    "kenlm",
    "requests",
)  # else every process imports them again
TIMEOUT = 300  # seconds for a command that takes one second


def inputs(folder: Path, address: str) -> None:
    """Write everything that the commands read; `address` is the URL of some text."""
    tinystudy.write(folder / "study")
    synthetic.write(folder / "made_up")
    (folder / "texts").mkdir()
    for number in range(12):
        (folder / f"texts/story{number}.txt").write_text(f"Story {number}\n" + tinystudy.text(5, number)[0])
    rng = np.random.default_rng(0)
    rng.normal(size=(3000, 16)).astype(np.float16).tofile(folder / "keys.raw")
    rng.integers(4, 40, 3000).tofile(folder / "values.raw")
    pages = {"table1.md": "# Table 1\n", "examples.md": "# Examples\n", "explorer.html": "<p>"}
    for name, page in (pages | {"table1.csv": "name,dev\nknn,16.06\n", "table1.tex": "16.06"}).items():
        (folder / name).write_text(page)
    (folder / "Snakefile").write_text("rule all:\n")
    (folder / "shown/tables").mkdir(parents=True)
    (folder / "shown/tables/table1.csv").write_text("name,dev\nknn,16.06\n")
    (folder / "archives.yaml").write_text(yaml.safe_dump({"text": {"kind": "url", "url": address, "sha256": None}}))
    for name, content in followups().items():
        (folder / name).write_text(json.dumps(content))  # which is YAML too
    (folder / "rows.json").write_text(json.dumps(rows("study")))
    test_pretrained.published(folder / "published")
    settings = json.dumps({"type": "pretrained", "file": str(folder / "published")})
    build_vocab.main(build_vocab.BuildVocabConfig((), folder / "published_vocab", settings))
    shutil.copytree(ROOT / "tests/data/oracles/fairseq_run", folder / "fairseq")
    shutil.copy(ROOT / "config/paper_numbers.yaml", folder)


def followups() -> dict[str, dict]:
    """A short sheet of mixers, and files as the verbs of knnlm/beyond/ write them."""
    names, documents = ("lm", "constant", "bins"), {"nats": [-300.0, -200.0], "tokens": [100, 80]}
    measured = {"dev": 17.0, "test": documents | {"perplexity": 16.0}, "facts": {}, "paper": None}
    point = {"skipped": 0.5, "perplexity": 16.0, "nats": documents["nats"], "facts": {}}
    random = {"name": "random", "label": "at random", "paper": None, "points": [point]}
    case = {"factory": "Flat", "nprobe": 0, "bytes": 9.0, "build": 1.0, "recall": 1.0, "search": 5.0, "with_exact": 4.0}
    case |= {"perplexity_exact": 16.0, "perplexity_index": 16.0, "nats": documents["nats"]}
    group = {"label": "0", "tokens": 180, "value": 0.1, "low": None, "high": None, "helped": 0.5}
    diagnostic = {"name": "place", "title": "Place", "x": "tokens", "y": "nats", "bins": [group], "sentence": "None."}
    measures = ("repetition", "rise")
    texts = [
        {"name": name, "label": name, "measures": {key: [0.1] for key in measures}}
        for name in ("heldout", "lm", "knn-lm")
    ]
    gaps = {key: {"value": 0.1, "low": None, "high": None} for key in measures}
    facts = {"prompts": 1, "prompt_tokens": 4, "words": 8, "top_p": 0.9}
    return {
        "mixing.yaml": {"mixing": [{"name": name, "label": name, "mixer": name} for name in names]},
        "mixing.json": {"methods": [{"name": name, "label": name} | measured for name in names]},
        "skipping.json": {"methods": [random], "tokens": documents["tokens"]},
        "smaller.json": {
            "methods": [random | {"points": [point | {"bytes": 3e6}]}],
            "tokens": documents["tokens"],
        },
        "frontier.json": {"cases": [case], "tokens": documents["tokens"], "queries": 2, "entries": 9, "k": 2},
        "helped.json": {"diagnostics": [diagnostic], "overall": {"sentence": "All."}},
        "texts.json": {"facts": facts, "methods": texts, "differences": gaps, "nearer": gaps},
        "published.yaml": {"paper": {"citation": "A paper", "source": "its number", "finding": "a finding"}},
    }


@contextlib.contextmanager
def begin(folder: Path) -> Iterator["Victims"]:
    """Write the inputs into `folder` and yield an object that runs commands there."""
    (folder / "served").mkdir()
    (folder / "served/text").write_bytes(b"some text\n" * 100_000)
    handler = functools.partial(Quiet, directory=folder / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        inputs(folder, f"http://127.0.0.1:{server.server_port}/text")
        yield Victims(folder)
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


def rows(study: str) -> list[dict]:
    """The rows of the LM and the kNN-LM, in the form that `interpolate` reads."""
    logprobs = {split: f"{study}/logprobs/fox/{split}" for split in ("dev", "test")}
    base = {"name": "base", "label": "LM", "corpus": "fox", "model": "fox", "seeds": [1]}
    base["model_dirs"] = [f"{study}/models/fox/seed1"]
    base["lm"] = {split: [f"{path}/lm/fox/seed1/logprob.npy"] for split, path in logprobs.items()}
    near = "fox/seed1/fox/ffn_input_ln/fine/first2of2"
    knn = {split: [f"{path}/knn/{near}/exact-k16-t1.npy"] for split, path in logprobs.items()}
    store = tinystudy.DATASTORE | {"neighbors": f"{study}/{tinystudy.NEIGHBORS.format('dev')}"}
    return [base, base | {"name": "knn", "components": {"knn": knn}, "datastore": store}]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int  # exit code of the process, or minus the signal that killed it
    text: str  # its standard error
    changes: int  # how many times it changed the file system below out/; 0 if it was killed
    seconds: float  # from the first change to the end; 0 if it was killed


class Victims:
    """Runs commands in `folder`, in processes forked from one that has already imported everything.

    A command is named by its verb, or by verb:use where commands.txt has several uses of one verb.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([*(MODULES[verb.partition(":")[0]] for verb in COMMANDS), *IMPORTED_LATE])

    def start(self, verb: str, fatal: int = 0, seconds: float = 0) -> tuple:
        """Start a verb that dies before change number `fatal`, or `seconds` after its first change, where not 0."""
        receiver, sender = self.context.Pipe()
        process = self.context.Process(target=_live, args=(self.folder, verb, fatal, seconds, sender))
        process.start()
        sender.close()
        return process, receiver

    def end(self, process: multiprocessing.Process, receiver: Connection) -> Ended:
        """Wait for a process that was started."""
        process.join(TIMEOUT)
        changes, seconds = 0, 0.0
        with contextlib.suppress(EOFError):  # a killed process sends nothing
            changes, seconds = receiver.recv()
        path = self.folder / f"{process.pid}.stderr"
        text = path.read_text() if path.exists() else ""
        path.unlink(missing_ok=True)
        return Ended(process.exitcode, text, changes, seconds)

    def run(self, verb: str, **options: object) -> Ended:
        return self.end(*self.start(verb, **options))

    def outputs(self, out: str = "out") -> dict[str, str]:
        """{name: SHA-256} of every file below out/, hidden files included; an empty folder has an empty text.

        The times that `knnlm frontier` measures are left out: they differ from run to run.
        """
        digests = {}
        for path in sorted((self.folder / out).rglob("*")):
            if path.is_file():
                digests[str(path.relative_to(self.folder))] = hashlib.sha256(_without_times(path)).hexdigest()
            elif not any(path.iterdir()):
                digests[str(path.relative_to(self.folder))] = ""
        return digests

    def clear(self) -> None:
        shutil.rmtree(self.folder / "out", ignore_errors=True)


def _without_times(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name != "frontier.json":
        return content
    return re.sub(rb'"(build|search|with_exact)": [0-9.e+-]+', rb'"\1": 0', content)


def _live(folder: Path, verb: str, fatal: int, after: float, sender: Connection) -> None:
    os.chdir(folder)
    os.dup2(os.open(f"{os.getpid()}.stderr", os.O_WRONLY | os.O_CREAT), 2)
    hook, seen = _watch(fatal, after)
    sys.argv = ["knnlm", verb.partition(":")[0], *COMMANDS[verb]]
    sys.addaudithook(hook)
    try:
        main()
    finally:
        sender.send((len(seen), time.monotonic() - seen[0] if seen else 0.0))


def _watch(fatal: int, after: float) -> tuple[Callable, list[float]]:
    """A hook for Python's audit events, which precede the action, and the list of times at which it saw a change."""
    here, seen = os.getpid(), []

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, mode, flags = arguments
            change = flags & (os.O_WRONLY | os.O_RDWR) if isinstance(flags, int) else "r" not in (mode or "r")
        else:
            path, change = arguments[0] if arguments else None, event in CHANGES
        if not change or os.getpid() != here or not _outputs(path):
            return
        seen.append(time.monotonic())
        if len(seen) == fatal:
            os.kill(here, signal.SIGKILL)
        if len(seen) == 1:  # without a handler, SIGALRM ends a process as SIGKILL does
            signal.setitimer(signal.ITIMER_REAL, after)

    return hook, seen


def _outputs(path: object) -> bool:
    """Whether a path is below out/, or is relative to a folder that is being removed."""
    try:
        name = os.fsdecode(path)
    except TypeError:
        return False
    return "/out" in f"/{name}" or "/" not in name
