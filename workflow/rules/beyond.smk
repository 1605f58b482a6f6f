# What came after the paper: methods and diagnostics computed from what Table 1's kNN-LM row keeps.

BEYOND = RESULTS / "beyond"
LATER = "config/experiments/beyond.yaml"
FINDINGS = "config/published/beyond.yaml"
SIGNALS = ("live/layout.py", "beyond/signals.py")
GATES = [BEYOND / f"gates/{name}-{split}.npy" for name in ("bins", "network") for split in SPLITS]
FOLLOWUPS = (
    "beyond",
    "beyond-texts",
    "beyond-rows",
    "beyond-skipping",
    "beyond-smaller",
    "beyond-frontier",
    "beyond-helped",
)
DRAWN = FOLLOWUPS[3:]
FOLLOWED = [f"outputs/{name}.py" for name in ("followups", "followup_tables", "followup_figures")]
# Rows of kNN alone that show test, beside the example's, whose datastore is of the text's own corpus.
OTHER_ROWS = [
    (output, row["name"])
    for output, found in STUDY["sheet"].items()
    for row in found
    if row["datastore"] == row["corpus"]
    and "test" in row["splits"]
    and not (row["cache"] or row["ngram"] or row["memorizing"])
    if row is not EXAMPLE
]
INFINIGRAM = [
    f"{RESULTS}/logprobs/{EXAMPLE['corpus']}/{split}/infinigram/{EXAMPLE['vocab']}/{EXAMPLE['datastore']}/meta.json"
    for split in SPLITS
]
SHOWN_ROW = {name: EXAMPLE[name] for name in ("model", "corpus", "datastore")}


rule adapt:
    """Mix kNN and the LM in the ways of later papers, all tuned on dev."""
    input:
        experiment=RESULTS / "experiments/table1.json",
        infinigram=INFINIGRAM,
        sheet=LATER,
        code=code_of(*SIGNALS, "beyond/adapt.py", "beyond/mixers.py"),
    output:
        mixing=BEYOND / "mixing.json",
        gates=GATES,
    log:
        LOGS / "beyond/adapt.log",
    benchmark:
        BENCHMARKS / "beyond/adapt.jsonl"
    threads: cpus("adapt", SHOWN_ROW)
    resources:
        **needs("adapt", SHOWN_ROW),
    params:
        study=study_folder,
        infinigram=input_folders("infinigram"),
    shell:
        "knnlm adapt"
        " --study {params.study:q}"
        " --sheet {input.sheet:q}"
        " --infinigram {params.infinigram:q}"
        " --out {output.mixing:q}"
        " 2> {log:q}"


rule skip:
    """Leave searches out, in the ways of later papers."""
    input:
        experiment=RESULTS / "experiments/table1.json",
        gates=GATES,
        code=code_of(*SIGNALS, "beyond/skip.py", "beyond/skipping.py"),
    output:
        BEYOND / "skipping.json",
    log:
        LOGS / "beyond/skip.log",
    benchmark:
        BENCHMARKS / "beyond/skip.jsonl"
    threads: cpus("skip", SHOWN_ROW)
    resources:
        **needs("skip", SHOWN_ROW),
    params:
        study=study_folder,
        gates=lambda wildcards, input: folder(input.gates[0]),
    shell:
        "knnlm skip --study {params.study:q} --gates {params.gates:q} --out {output:q} 2> {log:q}"


rule shrink:
    """Search smaller datastores: fewer entries, merged entries, shorter keys."""
    input:
        experiment=RESULTS / "experiments/table1.json",
        code=code_of(*SIGNALS, "beyond/shrink.py", "beyond/shrinking.py"),
    output:
        BEYOND / "smaller.json",
    log:
        LOGS / "beyond/shrink.log",
    benchmark:
        BENCHMARKS / "beyond/shrink.jsonl"
    threads: cpus("shrink", SHOWN_ROW)
    resources:
        **needs("shrink", SHOWN_ROW),
    params:
        study=study_folder,
    shell:
        "knnlm shrink --study {params.study:q} --out {output:q} 2> {log:q}"


rule frontier:
    """Measure perplexity, recall and speed of several indexes on the row's keys."""
    input:
        experiment=RESULTS / "experiments/table1.json",
        code=code_of(*SIGNALS, "beyond/frontier.py", "beyond/shrinking.py"),
    output:
        BEYOND / "frontier.json",
    log:
        LOGS / "beyond/frontier.log",
    benchmark:
        BENCHMARKS / "beyond/frontier.jsonl"
    threads: cpus("frontier", SHOWN_ROW)
    resources:
        **needs("frontier", SHOWN_ROW),
    params:
        study=study_folder,
    shell:
        "knnlm frontier --study {params.study:q} --out {output:q} 2> {log:q}"


rule diagnose:
    """Find out which tokens kNN helps and which it hurts, in every row of kNN alone that shows test."""
    input:
        experiments=[
            RESULTS / f"experiments/{output}.json" for output in ("table1", *{output for output, _ in OTHER_ROWS})
        ],
        infinigram=INFINIGRAM[1],
        code=code_of(*SIGNALS, "beyond/diagnose.py", "beyond/diagnostics.py"),
    output:
        BEYOND / "helped.json",
    log:
        LOGS / "beyond/diagnose.log",
    benchmark:
        BENCHMARKS / "beyond/diagnose.jsonl"
    threads: cpus("diagnose", SHOWN_ROW)
    resources:
        **needs("diagnose", SHOWN_ROW),
    params:
        study=study_folder,
        infinigram=input_folder("infinigram"),
        others=["--others", *(f"{output}/{row}" for output, row in OTHER_ROWS)] if OTHER_ROWS else "",
    shell:
        "knnlm diagnose"
        " --study {params.study:q}"
        " --infinigram {params.infinigram:q}"
        " {params.others:q}"
        " --out {output:q}"
        " 2> {log:q}"


rule compare_texts:
    """Let the LM and the kNN-LM go on with the beginnings of test documents, and measure their texts."""
    input:
        experiment=RESULTS / "experiments/table1.json",
        code=code_of(
            "live/layout.py", "live/retrieval.py", "live/sampling.py", "beyond/compare_texts.py", "beyond/texts.py"
        ),
    output:
        BEYOND / "texts.json",
    log:
        LOGS / "beyond/compare_texts.log",
    benchmark:
        BENCHMARKS / "beyond/compare_texts.jsonl"
    threads: cpus("compare_texts", SHOWN_ROW)
    resources:
        **needs("compare_texts", SHOWN_ROW),
    params:
        study=study_folder,
    shell:
        "knnlm compare_texts --shorten --study {params.study:q} --out {output:q} 2> {log:q}"


rule followups:
    """Write the tables and figures of what came after the paper."""
    input:
        mixing=rules.adapt.output.mixing,
        skipping=rules.skip.output,
        smaller=rules.shrink.output,
        frontier=rules.frontier.output,
        helped=rules.diagnose.output,
        texts=rules.compare_texts.output,
        published=FINDINGS,
        code=code_of(*FOLLOWED, *(f"outputs/{name}.py" for name in ("figures", "whiskers", "vectors")), *TABULATED[1:]),
    output:
        tables=[f"{RESULTS}/tables/{name}.{end}" for name in FOLLOWUPS for end in ("md", "tex", "csv")],
        figures=[f"{RESULTS}/figures/{name}.{end}" for name in DRAWN for end in ("pdf", "png", "svg", "csv")],
    log:
        LOGS / "beyond/followups.log",
    localrule: True
    params:
        note=study_note,
        tables=output_folder(),
        figures=lambda wildcards, output: folder(output.figures[0]),
    shell:
        "knnlm followups"
        " --mixing {input.mixing:q}"
        " --skipping {input.skipping:q}"
        " --smaller {input.smaller:q}"
        " --frontier {input.frontier:q}"
        " --helped {input.helped:q}"
        " --texts {input.texts:q}"
        " --published {input.published:q}"
        " --tables {params.tables:q}"
        " --figures {params.figures:q}"
        " --note={params.note:q}"
        " 2> {log:q}"


rule beyond:
    """Make the tables, figures and page of what came after the paper."""
    input:
        tables=[f"{RESULTS}/tables/{name}.md" for name in FOLLOWUPS],
        figures=[f"{RESULTS}/figures/{name}.svg" for name in DRAWN],
        configs=[LATER, FINDINGS],
        metas=report_models(),
        citation=["CITATION.cff"],
        captions=[f"{CAPTIONS}/{name}.rst" for name in DRAWN],
        code=REPORT,
    output:
        RESULTS / "beyond.html",
    log:
        LOGS / "beyond/page.log",
    localrule: True
    params:
        study=STUDY["study"],
        captions=lambda wildcards: CAPTIONS,
        inputs=flags("tables", "figures", "configs", "metas", "citation"),
        note=study_note,
    shell:
        "knnlm report"
        " --study {params.study:q}"
        " {params.inputs:q}"
        " --captions {params.captions:q}"
        " --note={params.note:q}"
        " --out {output:q}"
        " 2> {log:q}"
