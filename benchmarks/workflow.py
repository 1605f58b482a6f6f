"""Cases of the workflow: Snakemake around the stages, and growing datastores."""

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks import inputs
from benchmarks.harness import Row, Sides, anonymous, case, seconds
from knnlm.artifacts import description
from knnlm.datastores import add, extract, merge, search, train_index
from knnlm.models import model
from knnlm.models.model import LanguageModel
from knnlm.settings import ModelConfig

ROOT = Path(__file__).parent.parent
TOOK = re.compile(r"^\S+ took ([\d.]+) s$", re.MULTILINE)  # the last line that every verb logs (knnlm/artifacts/cli.py)


def snakemake(*arguments: object) -> None:
    asked = [sys.executable, "-m", "snakemake", "--nolock", *map(str, arguments)]
    subprocess.run(asked, cwd=ROOT, capture_output=True, check=True)


@case(
    "workflow",
    "the smoke study by Snakemake, one job at a time, archives already there",
    "the sum of the stages' own times, without start and imports",
    "≤ +25%",
)
def workflow(folder: Path, _: float) -> Row:
    study = ("--cores", 1, "--configfile", "config/smoke.yaml", "--config", f"results={folder}")
    snakemake(*study, "--until", "fetch")
    whole = seconds(lambda: snakemake(*study))
    logs = [log for log in (folder / "smoke/logs").rglob("*.log") if "fetch" not in log.parts]
    stages = [float(took) for log in logs for took in TOOK.findall(log.read_text(encoding="utf-8"))]
    note = f"{len(stages)} jobs, {(whole - sum(stages)) / len(stages):.2f} s each beside their own time"
    return Row(f"{whole:.0f} s", f"{sum(stages):.0f} s", f"**{whole / sum(stages) - 1:+.0%}**", "", note)


@case(
    "waiting",
    "two searches of two threads each beside a busy process, as the workflow runs them (`OMP_WAIT_POLICY=passive`)",
    "the same with OpenMP's default, threads that wait in a loop",
    "≥ 1×",
)
def waiting(folder: Path, scale: float) -> Sides:
    """Two jobs together ask for more cores than there are, as two studies on one machine do."""
    keys, _, queries = inputs.clustered(folder, int(200_000 * scale), 128, 1024)
    shard, asked, index = folder / "waiting", folder / "waiting-queries", folder / "waiting.faiss"
    for path, array in ((shard, keys), (asked, queries)):
        path.mkdir(exist_ok=True)
        np.save(path / "keys.npy", array)
        np.save(path / "ids.npy", np.arange(len(array)))
        description.write_meta(path, "extract", {}, {})
    settings = '{"factory": "IVF256,PQ64x4fs", "nprobe": 32, "sample": 20000}'
    train_index.main(train_index.TrainIndexConfig((shard,), folder / "trained.faiss", settings))
    add.main(add.AddConfig(folder / "trained.faiss", shard, index))
    words = [sys.executable, "-m", "knnlm", "search", "--k", 1024, "--settings", settings]
    words += ["--index", index, "--keys", shard, "--queries", asked]

    def together(**policy: str) -> list[np.ndarray]:
        kept = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        environment = kept | {"OMP_NUM_THREADS": "2"} | policy
        outs = [Path(tempfile.mkdtemp(dir=folder)) / "found" for _ in range(2)]
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            jobs = [subprocess.Popen([*map(str, words), "--out", str(out)], env=environment, cwd=ROOT) for out in outs]
            assert not any([job.wait() for job in jobs])
        finally:
            busy.kill()
        return [np.load(out / "rows.npy") for out in outs]

    def same(ours: list[np.ndarray], other: list[np.ndarray]) -> None:
        np.testing.assert_array_equal(ours, other)

    return Sides(lambda: together(OMP_WAIT_POLICY="passive"), together, same, 2 * len(queries), "queries", 3)


@case("dry-run", "dry run of the paper-scale study", "", "< 30 s")
def dry_run(folder: Path, _: float) -> Row:
    plan = ("--cores", 1, "-n", "--quiet", "--configfile", "config/paper.yaml", "--config", f"results={folder}")
    took = sorted(seconds(lambda: snakemake(*plan)) for _ in range(3))
    return Row(f"{took[1]:.1f} s", "", f"({took[0]:.1f} to {took[2]:.1f} s)", "")


def grow(folder: Path, shards: int, entries: int, times: multiprocessing.Queue) -> None:
    """Extract, index, search (1,000 queries) and merge a datastore of `shards` shards; the seconds go into `times`."""
    out, sizes = Path(tempfile.mkdtemp(dir=folder)), '{"new": 192, "context": 64}'
    tokens = inputs.zipf(np.random.default_rng(9), entries * shards, 8000).astype(np.uint16)
    np.save(out / "tokens.npy", tokens)
    fast = '{"factory": "IVF256,PQ64x4fs", "nprobe": 32, "sample": 20000}'

    def extracted(shard: int) -> Path:
        keys = out / f"keys{shard}"
        given = {"windows": sizes, "shard": shard, "shards": shards, "batch_tokens": 8192}
        extract.main(extract.ExtractConfig(folder / "lm", out / "tokens.npy", ("ffn_input_ln",), (keys,), **given))
        return keys

    first = extracted(0)
    queries = out / "queries"
    queries.mkdir()
    np.save(queries / "keys.npy", np.load(first / "keys.npy")[:1000].astype(np.float32))
    description.write_meta(queries, "evaluate", {}, {})
    train_index.main(train_index.TrainIndexConfig((first,), out / "trained.faiss", fast))
    shutil.rmtree(first)  # what is there already is not extracted again
    began = time.perf_counter()
    for shard in range(shards):
        keys, index, found = extracted(shard), out / f"{shard}.faiss", out / f"found{shard}"
        add.main(add.AddConfig(out / "trained.faiss", keys, index))
        search.main(search.SearchConfig(index, keys, (queries,), 1024, (found,), fast))
        (keys / "keys.npy").unlink()
    merge.main(merge.MergeConfig(tuple(out / f"found{shard}" for shard in range(shards)), (out / "merged",)))
    times.put(time.perf_counter() - began)


@case(
    "scaling",
    "keys, index, search and merge of 1, 2, 4 and 8 shards of 50k entries",
    "8 × the time, 1 × the memory of one shard",
    "±15%, flat",
)
def scaling(folder: Path, scale: float) -> Row:
    torch.manual_seed(1)
    folder /= "scaling"
    (folder / "lm").mkdir(parents=True)
    config = ModelConfig(vocab_size=8000, dim=128, layers=4, ffn_dim=512, heads=4)
    model.save(LanguageModel(config), folder / "lm")
    description.write_meta(folder / "lm", "train", {}, {})
    context, times, peaks = multiprocessing.get_context("spawn"), [], []
    for shards in (1, 1, 2, 4, 8):  # the first run compiles numba's functions and fills caches
        taken, highest = context.Queue(), 0
        child = context.Process(target=grow, args=(folder, shards, int(50_000 * scale), taken))
        child.start()
        while child.is_alive():
            highest = max(highest, anonymous(child.pid))
            time.sleep(0.01)
        assert child.exitcode == 0, f"{shards} shards failed"
        times.append(taken.get())
        peaks.append(highest / 1e6)
    times, peaks = times[1:], peaks[1:]
    ratio = times[-1] / (8 * times[0]) - 1
    memory = " · ".join(f"{mb:,.0f}" for mb in peaks)
    took = " · ".join(f"{t:.1f}" for t in times)
    return Row(f"{took} s", f"{8 * times[0]:.1f} s", f"**{ratio:+.0%}**", f"{memory} MB")
