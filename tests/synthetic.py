"""A made-up study that agrees with every finding of the paper: experiment files and learning curves."""

import json
import math
from pathlib import Path

KEYS = {"mhsa_input": 97, "mhsa_input_ln": 94, "ffn_input": 96, "ffn_input_ln": 90, "output": 95, "output_ln": 94.5}


def split(perplexity: float, noise: float = 0.0) -> dict:
    """One split of 30 documents of different lengths; `noise` nats a token go from every other document to the next."""
    lengths = [20000 * (i + 10) / 735 for i in range(30)]
    nats = [length * math.log(perplexity) + (-1) ** i * noise * length for i, length in enumerate(lengths)]
    return {
        "perplexity": perplexity,
        "per_seed": [perplexity],
        "interval": [perplexity * 0.97, perplexity * 1.03],
        "nats": nats,
        "tokens": 20000,
        "documents": len(lengths),
    }


def row(name: str, dev: float, **facts: object) -> dict:
    """One row of an experiment; its test perplexity is 2% above dev's."""
    empty = {"datastore": None, "ngram": None, "memorizing": None, "cache": None, "lmbda": {}, "curve": None}
    made = {"label": name, "corpus": "wikitext", "model": "wikitext", "parameters": 3456789, "training_tokens": 2000000}
    return {
        "name": name,
        "seeds": [1],
        "best_seed": 1,
        "dev": split(dev),
        "test": split(dev * 1.02),
        **empty,
        **made,
        **facts,
    }


def store(corpus: str = "wikitext", entries: int = 2000000, total: int | None = None, **facts: object) -> dict:
    made = {
        "shards": 1,
        "of": 2,
        "keytype": "ffn_input_ln",
        "index": "ivfpq",
        "distance": "exact",
        "k": 1024,
        "temperature": 1.0,
    }
    return {"corpus": corpus, "entries": entries, "entries_total": total or entries, **made, **facts}


def knn(name: str, dev: float, lmbda: float = 0.25, **facts: object) -> dict:
    resampled = [lmbda + 0.01 * (i % 3 - 1) for i in range(30)]
    return row(
        name,
        dev,
        **{"datastore": store(), "lmbda": {"knn": [lmbda]}, "lmbda_resampled": resampled, **facts},
    )


def mixture_curve(base: float, best: float, at: float) -> dict:
    """A parabola through (0, base) and (at, best), and no probability at all at λ = 1."""
    grid = [round(0.05 * i, 2) for i in range(21)]
    dev = [best + (base - best) * ((x - at) / at) ** 2 for x in grid[:-1]] + [math.inf]
    return {"lmbda": grid, "dev": dev, "test": dev}


def experiments() -> dict[str, list[dict]]:
    orders = {2: 99.4, 3: 98.9, 4: 98.7, 5: 98.8, 6: 98.9, 7: 99.0}
    growing = {1: (175.0, 0.3), 2: (150.0, 0.4), 4: (128.0, 0.45), 8: (110.0, 0.55)}
    nearest = {1: 98, 2: 97, 4: 96, 8: 94.5, 16: 93.4, 32: 92.5, 64: 91.8, 128: 91.2, 256: 90.8, 512: 90.4, 1024: 90}
    cache = {"cache": [{"size": 500, "theta": 0.3}]}
    wide = store("wiki", 8000000)
    return {
        "table1": [
            row("base", 100, label="Base LM"),
            knn("knn", 90, label="+ kNN-LM"),
            row("cache", 98, lmbda={"cache": [0.05]}, label="+ continuous cache", **cache),
            row("knn-cache", 88.5, datastore=store(), lmbda={"knn": [0.25], "cache": [0.05]}, label="+ both", **cache),
            row("ngram", 97, ngram=5, lmbda={"ngram": [0.1]}, label="+ 5-gram LM"),
            row(
                "knn-ngram", 88, ngram=5, datastore=store(), lmbda={"knn": [0.2], "ngram": [0.1]}, label="+ kNN, 5-gram"
            ),
            row("cache-ngram", 96, ngram=5, lmbda={"cache": [0.05], "ngram": [0.1]}, label="+ cache, 5-gram", **cache),
            row("knn-cache-ngram", 87, ngram=5, datastore=store(), lmbda={"knn": [0.2]}, label="+ all", **cache),
        ],
        "table2": [row("base", 80, corpus="books", model="books"), knn("knn", 76, corpus="books", model="books")],
        "table3": [
            row("base-large", 120, model="wiki", training_tokens=30000000),
            row("base-small", 200, model="wiki-small", training_tokens=1000000),
            knn("knn", 110, 0.55, model="wiki-small", datastore=wide),
        ],
        "table4": [
            row("base", 300, model="wiki"),
            row("in-domain", 80, model="books"),
            knn("knn", 150, 0.65, model="wiki", datastore=store("books")),
        ],
        "table5": [row("base", 100)]
        + [knn(name, dev) for name, dev in KEYS.items()]
        + [knn(f"{name}-second_last", dev + 1) for name, dev in KEYS.items()],
        "precision": [row("base", 100)]
        + [
            knn(name, dev, datastore=store(distance=name))
            for name, dev in (("exact", 90), ("quantized", 93), ("quantized_sqrt", 92))
        ],
        "metric": [row("base", 100), knn("l2", 90), knn("ip", 92, datastore=store(index="ivfpq-ip"))],
        "temperature": [row("base", 100)]
        + [knn(f"t{t}", 90 - t / 4, datastore=store(temperature=float(t))) for t in (1, 4)],
        "figure2": [row("base-small", 200), row("base-large", 120)]
        + [
            knn(f"size{m}of8", dev, lmbda, datastore=store("wiki", m * 10**6, 8 * 10**6, shards=m, of=8))
            for m, (dev, lmbda) in growing.items()
        ],
        "figure4": [row("base", 100)] + [knn(f"k{k}", dev, datastore=store(k=k)) for k, dev in nearest.items()],
        "figure5": [
            knn("in-domain", 90, 0.25, curve=mixture_curve(100, 90, 0.25)),
            knn("out-of-domain", 150, 0.65, curve=mixture_curve(300, 150, 0.65)),
        ],
        "figure7": [row("base", 100)]
        + [row(f"order{n}", dev, ngram=n, lmbda={"ngram": [0.1]}) for n, dev in orders.items()]
        + [knn("knn", 90)],
        "memorizing": [
            row("base", 100),
            row("memorizing", 99.5, memorizing="memorizing", lmbda={"memorizing": [0.05]}),
            knn("knn", 90),
            row("memorizing-alone", 400, model="memorizing"),
        ],
    }


def curve(epochs: float, start: float, end: float, overfits: bool) -> list[dict]:
    """A learning curve of 60 points; dev loss every tenth."""
    points = []
    for i in range(60):
        progress = i / 59
        train = end + (start - end) * math.exp(-5 * progress)
        dev = train + (4 * progress if overfits else 0.15)
        points.append(
            {
                "update": 10 * i + 1,
                "epoch": epochs * (i + 1) / 60,
                "tokens": round(2e6 * epochs * (i + 1) / 60),
                "train_loss": train,
            }
            | {"dev_loss": dev if i % 10 == 9 else None, "lr": 0.003}
        )
    return points


def write(folder: Path) -> dict[str, list[Path]]:
    """Write the study below `folder`; the paths of its experiments and curves."""
    (folder / "experiments").mkdir(parents=True)
    for name, rows in experiments().items():
        (folder / f"experiments/{name}.json").write_text(json.dumps({"experiment": name, "rows": rows}))
    for model, points in {"wikitext": curve(3, 10, 4.4, False), "memorizing": curve(60, 10, 0.01, True)}.items():
        path = folder / f"models/{model}/seed1/curve.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(point) + "\n" for point in points))
    return {
        "experiments": sorted(folder.glob("experiments/*.json")),
        "curves": sorted(folder.glob("models/*/*/*.jsonl")),
    }
