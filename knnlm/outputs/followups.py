"""Write the tables and figures of what came after the paper (beyond/): each method's finding, published and here."""

from dataclasses import dataclass
from pathlib import Path

from knnlm.artifacts import files
from knnlm.outputs import figures
from knnlm.outputs.followup_figures import draw_frontier, draw_helped, draw_traded
from knnlm.outputs.followup_tables import (
    BYTES,
    SKIPPED,
    by_row,
    compared,
    diagnosed,
    findings,
    halfway,
    indexes,
    judged,
    traded,
    without_interval,
    written,
)
from knnlm.outputs.tables import csv, latex, markdown
from knnlm.scores import stats
from knnlm.scores.experiments import read_yaml

LEGEND = (
    "Perplexities on test, in brackets 95% bootstrap intervals over documents; everything is tuned on dev. Differences "
    "are from the kNN-LM with one λ, in nats a token; above zero is better."
)
TRADED = (
    "Perplexities on test, in brackets 95% bootstrap intervals over documents; everything is tuned on dev. Differences "
    "are in nats a token, above zero is better: from the first line, and from as many searches or entries taken at "
    "random."
)
SMALLER = (
    "Bytes are those of the index, of the keys where exact distances need them, of values and of weights; temperature "
    "and λ are tuned for each line. Without keys, the index's own distances weigh the neighbors."
)
FRONTIER = (
    "{queries:,} tokens of dev, k {k:,}, {entries:,} entries. Queries a second of processor time: they differ from run "
    "to run. Best: no other line is both faster and no worse, with exact distances. λ is tuned for each line; "
    "differences are from exact search, in nats a token, in brackets 95% bootstrap intervals over documents."
)
HELPED = (
    "Gain of the kNN-LM over the LM on test, nats a token, in brackets 95% bootstrap intervals over documents, and the "
    "share of tokens that it makes more probable."
)

SEED = "Of a row with several seeds the first one is taken."
FEW = f"Where brackets are missing, no interval can be drawn: {stats.FEWEST} documents are the fewest for one."
WRITTEN = (
    "Means over {prompts} prompts, each the first {prompt_tokens} tokens of a test document, of what follows: {words} "
    "tokens of the document itself, drawn from the LM, or from the kNN-LM (nucleus sampling with p = {top_p:g}). "
    "Differences are kNN-LM − LM, that of perplexity in nats a token, entropies in nats, in brackets 95% bootstrap "
    "intervals over prompts. Better is what is nearer to the held-out text."
)


@dataclass(frozen=True)
class FollowupsConfig:
    """Write the tables and figures of what came after the paper, from the files of its verbs."""

    mixing: Path
    """mixing.json, which `knnlm adapt` writes"""
    skipping: Path
    """skipping.json, which `knnlm skip` writes"""
    smaller: Path
    """smaller.json, which `knnlm shrink` writes"""
    frontier: Path
    """frontier.json, which `knnlm frontier` writes"""
    helped: Path
    """helped.json, which `knnlm diagnose` writes"""
    texts: Path
    """texts.json, which `knnlm compare_texts` writes"""
    published: Path
    """config/published/beyond.yaml: the papers and what they found"""
    tables: Path
    """folder of the tables"""
    figures: Path
    """folder of the figures"""
    note: str = ""
    """the line above the tables: the study and its scale"""


def main(config: FollowupsConfig) -> None:
    files_of_verbs = (config.mixing, config.skipping, config.smaller, config.frontier, config.helped)
    mixing, skipping, smaller, frontier, helped = (files.read_json(path) for path in files_of_verbs)
    published = read_yaml(config.published, "the repository has it as config/published/beyond.yaml")
    mixed, found = (
        compared(mixing["methods"], published),
        diagnosed(helped["diagnostics"]),
    )
    texts = files.read_json(config.texts)
    about, compared_texts = WRITTEN.format(**texts["facts"]), written(texts)
    left_out, fewer = traded(skipping, SKIPPED), traded(smaller, BYTES)
    tables = {
        "beyond": (
            "What came after the paper",
            LEGEND,
            *mixed,
            findings(mixed[0], mixing["methods"], published),
        ),
        "beyond-texts": (
            "Generated text",
            about,
            *compared_texts,
            judged(compared_texts[0], texts, published),
        ),
        "beyond-skipping": (
            "Searches left out",
            TRADED,
            *left_out,
            halfway(left_out[0], SKIPPED, published),
        ),
        "beyond-smaller": (
            "Smaller datastores",
            f"{TRADED} {SMALLER}",
            *fewer,
            halfway(fewer[0], BYTES, published),
        ),
        "beyond-frontier": ("Which index", FRONTIER.format(**frontier), *indexes(frontier), ""),
        "beyond-helped": ("Who is helped", f"{HELPED} {helped['overall']['sentence']}", *found, ""),
        "beyond-rows": ("Who is helped, by row", HELPED, *by_row(helped), ""),
    }
    for name, (title, legend, numbers, shown, below) in tables.items():
        note = " ".join(filter(None, (config.note, legend, SEED, FEW if without_interval(numbers) else "")))
        forms = {
            "csv": csv(numbers),
            "md": markdown(title, note, shown, {}, []) + below,
            "tex": latex(title, note, shown, {}, []),
        }
        for suffix, content in forms.items():
            files.write_text(config.tables / f"{name}.{suffix}", content)
    figures.prepare()
    drawn = {
        "beyond-skipping": draw_traded(left_out[0], SKIPPED),
        "beyond-smaller": draw_traded(fewer[0], BYTES),
        "beyond-frontier": draw_frontier(frontier),
        "beyond-helped": draw_helped(helped["diagnostics"]),
    }
    for name, (figure, numbers) in drawn.items():
        figures.save(figure, numbers, config.figures / name)
