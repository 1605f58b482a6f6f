PAPER = "config/paper_numbers.yaml"
CAPTIONS = "workflow/report"
STAGES = ("corpora", "vocabs", "tokens", "models", "keys", "indexes", "neighbors", "logprobs")
TABLES = [name for name in STUDY["sheet"] if not name.startswith("figure")]
EXAMPLE = next((row for row in STUDY["sheet"].get("table1", []) if row["name"] == "knn"), None)
DRAWN = {
    "figure1": ["figure1"],
    "figure2": ["figure2a", "figure2b"],
    **{f"figure{n}": [f"figure{n}"] for n in (3, 4, 5, 7, 8)},
}
FIGURES = {
    name: files for name, files in DRAWN.items() if name in STUDY["sheet"] or name in ("figure1", "figure3", "figure8")
}
CURVES = [
    f"{R}/models/{model}/seed{STUDY['models'][model]['seeds'][0]}/curve.jsonl"
    for model in ("wikitext", "memorizing")
    if model in TRAINED
]
if len(CURVES) < 2:
    FIGURES.pop("figure8")
if not EXAMPLE:
    FIGURES.pop("figure1")


def table_files(name):
    return [f"{R}/tables/{name}.{end}" for end in ("md", "tex", "csv")]


def figure_files(name):
    return [f"{R}/figures/{file}.{end}" for file in FIGURES[name] for end in ("pdf", "png", "csv")]


def in_report(file):
    """A figure's picture, which Snakemake's own report shows with its caption."""
    return report(
        f"{R}/figures/{file}.png", caption=f"../report/{file}.rst", category="Figures", labels={"figure": file}
    )


def as_list(paths):
    return [paths] if isinstance(paths, str) else list(paths)


def code_of(*modules):
    """The library files that a cheap rule runs: an edit there draws its outputs again."""
    return [f"knnlm/{module}.py" for module in modules]


rule table:
    input:
        experiment=R + "/experiments/{table}.json",
        curves=lambda w: CURVES if w.table == "memorizing" else [],
        paper=PAPER,
        code=code_of("outputs/tabulate", "outputs/tables", "outputs/claims", "scores/experiments"),
    output:
        multiext(R + "/tables/{table}", ".md", ".tex"),
        report(R + "/tables/{table}.csv", caption="../report/table.rst", category="Tables", labels={"table": "{table}"}),
    wildcard_constraints:
        table="|".join(TABLES),
    localrule: True
    params:
        out=R + "/tables",
        note=lambda w: STUDY["note"],
        curves=lambda w, input: ["--curves", *input.curves] if input.curves else "",
    shell:
        "knnlm tabulate"
        " --table {wildcards.table:q}"
        " --experiments {input.experiment:q}"
        " {params.curves:q}"
        " --paper {input.paper:q}"
        " --note={params.note:q}"
        " --out {params.out:q}"


rule claims_table:
    input:
        experiments=expand(R + "/experiments/{output}.json", output=STUDY["sheet"]),
        curves=CURVES,
        paper=PAPER,
        code=code_of("outputs/tabulate", "outputs/tables", "outputs/claims", "scores/experiments"),
    output:
        multiext(R + "/tables/claims", ".md", ".tex"),
        report(R + "/tables/claims.csv", caption="../report/claims.rst", category="Tables", labels={"table": "claims"}),
    localrule: True
    params:
        out=R + "/tables",
        note=lambda w: STUDY["note"],
        curves=lambda w, input: ["--curves", *input.curves] if input.curves else "",
    shell:
        "knnlm tabulate"
        " --table claims"
        " --experiments {input.experiments:q}"
        " {params.curves:q}"
        " --paper {input.paper:q}"
        " --note={params.note:q}"
        " --out {params.out:q}"


rule cost:
    input:
        experiments=expand(R + "/experiments/{output}.json", output=STUDY["sheet"]),
        paper=PAPER,
        code=code_of("outputs/tabulate", "outputs/tables"),
    output:
        multiext(R + "/tables/cost", ".md", ".tex"),
        report(R + "/tables/cost.csv", caption="../report/cost.rst", category="Tables", labels={"table": "cost"}),
    localrule: True
    params:
        benchmarks=R + "/benchmarks",
        artifacts=[f"{R}/{stage}" for stage in STAGES],
        out=R + "/tables",
        note=lambda w: STUDY["note"],
    shell:
        "knnlm tabulate"
        " --table cost"
        " --benchmarks {params.benchmarks:q}"
        " --artifacts {params.artifacts:q}"
        " --paper {input.paper:q}"
        " --note={params.note:q}"
        " --out {params.out:q}"


rule illustrate:
    input:
        experiment=R + "/experiments/table1.json",
        code=code_of("outputs/illustrate", "live/layout", "live/passages", "live/retrieval"),
    output:
        R + "/figures/figure1.json",
    localrule: True
    params:
        study=R,
    shell:
        "knnlm illustrate" " --study {params.study:q}" " --out {output:q}"


for FIGURE in FIGURES:

    rule:
        name:
            f"draw_{FIGURE}"
        input:
            experiments=[f"{R}/experiments/{FIGURE}.json"] if FIGURE in STUDY["sheet"] else [],
            curves=CURVES if FIGURE == "figure8" else [],
            query=R + "/figures/figure1.json" if FIGURE == "figure1" else [],
            paper=PAPER,
            code=code_of("outputs/plot", "outputs/figures", "outputs/diagrams", "scores/experiments"),
        output:
            [path for path in figure_files(FIGURE) if not path.endswith(".png")],
            [in_report(file) for file in FIGURES[FIGURE]],
        localrule: True
        params:
            figure=FIGURE,
            out=R + "/figures",
            given=lambda w, input: [
                word
                for flag in ("experiments", "curves", "query")
                if input[flag]
                for word in (f"--{flag}", *as_list(input[flag]))
            ],
        shell:
            "knnlm plot"
            " --figure {params.figure:q}"
            " {params.given:q}"
            " --paper {input.paper:q}"
            " --out {params.out:q}"


rule examples_pages:
    input:
        scores=lambda w: row_scores(EXAMPLE, EXAMPLE["seeds"][0], "test")["lm"],
        knn=lambda w: f"{folder(row_scores(EXAMPLE, EXAMPLE['seeds'][0], 'test')['knn'])}/meta.json",
        neighbors=lambda w: row_neighbors(EXAMPLE, "test") + "/meta.json",
        experiment=R + "/experiments/table1.json",
        code=[
            *code_of("outputs/examples", "corpora/vocab"),
            *(f"knnlm/outputs/templates/examples.{end}.j2" for end in ("md", "html")),
        ],
    output:
        multiext(R + "/examples/examples", ".md", ".html"),
    localrule: True
    params:
        out=R + "/examples",
        neighbors=lambda w, input: folder(input.neighbors),
        knn=lambda w: row_scores(EXAMPLE, EXAMPLE["seeds"][0], "test")["knn"],
        vocab=f"{R}/vocabs/{EXAMPLE['vocab']}" if EXAMPLE else "",
        test=f"{R}/tokens/{EXAMPLE['vocab']}/{EXAMPLE['corpus']}/test" if EXAMPLE else "",
        train=f"{R}/tokens/{EXAMPLE['vocab']}/{EXAMPLE['datastore']}/train" if EXAMPLE else "",
        seed=EXAMPLE["seeds"][0] if EXAMPLE else 0,
        distance=EXAMPLE["distance"] if EXAMPLE else "",
        examples=STUDY["examples"]["count"],
        note=lambda w: STUDY["note"],
    shell:
        "knnlm examples"
        " --neighbors {params.neighbors:q}"
        " --lm {input.scores:q}"
        " --knn {params.knn:q}"
        " --eval-tokens {params.test:q}.npy"
        " --eval-documents {params.test:q}.documents.npy"
        " --train-tokens {params.train:q}.npy"
        " --train-documents {params.train:q}.documents.npy"
        " --vocab {params.vocab:q}"
        " --experiment {input.experiment:q}"
        " --seed {params.seed:q}"
        " --distance {params.distance:q}"
        " --count {params.examples:q}"
        " --note={params.note:q}"
        " --out {params.out:q}"


rule explore:
    input:
        experiment=R + "/experiments/table1.json",
        code=[
            *code_of("outputs/explore", "live/layout", "outputs/packing", "outputs/spacing"),
            *(f"knnlm/outputs/templates/explorer.{end}" for end in ("html.j2", "css", "js")),
        ],
    output:
        report(
            R + "/explorer.html", caption="../report/page.rst", category="Pages", labels={"page": "neighbor explorer"}
        ),
    benchmark:
        R + "/benchmarks/explore/explorer.jsonl"
    localrule: True
    params:
        study=R,
        note=lambda w: STUDY["note"],
    shell:
        "workflow/launch 0 explore" " --study {params.study:q}" " --note={params.note:q}" " --out {output:q}"


rule report:
    input:
        tables=[f"{R}/tables/{name}.md" for name in (*TABLES, "claims", "cost")],
        figures=[f"{R}/figures/{file}.png" for files in FIGURES.values() for file in files],
        examples=f"{R}/examples/examples.md" if EXAMPLE else [],
        explorer=f"{R}/explorer.html" if EXAMPLE else [],
        configs=[*map(str, workflow.configfiles), STUDY["experiments"]],
        metas=sorted({MODEL.format(model=row["model"], seed=row["seeds"][0]) + "/meta.json" for row in rows(STUDY)}),
        deviations="docs/differences.md",
        captions=[f"{CAPTIONS}/{file}.rst" for files in FIGURES.values() for file in files],
        code=[*code_of("outputs/report"), "knnlm/outputs/templates/report.html.j2"],
    output:
        report(R + "/report.html", caption="../report/page.rst", category="Pages", labels={"page": "report"}),
    localrule: True
    params:
        study=STUDY["study"],
        captions=CAPTIONS,
        note=lambda w: STUDY["note"],
        example=lambda w, input: ["--examples", input.examples, "--explorer", input.explorer] if EXAMPLE else "",
        figures=lambda w, input: ["--figures", *input.figures] if input.figures else "",
    shell:
        "knnlm report"
        " --study {params.study:q}"
        " --tables {input.tables:q}"
        " {params.figures:q}"
        " --captions {params.captions:q}"
        " {params.example:q}"
        " --configs {input.configs:q}"
        " --metas {input.metas:q}"
        " --deviations {input.deviations:q}"
        " --note={params.note:q}"
        " --out {output:q}"


# The names that a reader of the paper would type.


rule tables:
    input:
        [table_files(name) for name in (*TABLES, "claims", "cost")],


rule figures:
    input:
        [figure_files(name) for name in FIGURES],


rule examples:
    input:
        rules.examples_pages.output if EXAMPLE else [],


rule claims:
    input:
        table_files("claims"),


rule explorer:
    input:
        rules.explore.output if EXAMPLE else [],


for TARGET in TABLES:

    rule:
        name:
            TARGET
        input:
            table_files(TARGET),


for TARGET in FIGURES:

    rule:
        name:
            TARGET
        input:
            figure_files(TARGET),


rule verify:
    input:
        rules.tables.input,
        rules.figures.input,
    params:
        run=R,
        reference=f"{STUDY['results']}/reference/{STUDY['study']}",
    shell:
        "knnlm verify --run {params.run:q} --reference {params.reference:q}"
