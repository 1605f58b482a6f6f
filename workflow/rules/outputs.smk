# Experiments to tables, figures and pages, and the targets that a reader of the paper would type.

PAPER = [STUDY["paper"]] if STUDY["paper"] else []  # none: the study has no role in the paper
PUBLISHED = [STUDY["published"]] if STUDY["published"] else []
REFERENCE = Path(STUDY["results"]) / "reference" / STUDY["study"]
CAPTIONS = "workflow/report"
STAGES = ("corpora", "vocabs", "tokens", "models", "keys", "indexes", "searched", "neighbors", "logprobs")
SOURCES = ["Snakefile", "workflow", "knnlm", "config", "docs", "setup", "Makefile", "README.md", "LICENSE"]
SOURCES += ["CITATION.cff", "pyproject.toml", "requirements.txt"]
CURVES = [
    f"{RESULTS}/models/{model}/seed{STUDY['models'][model]['seeds'][0]}/curve.jsonl"
    for model in ("wikitext", "memorizing")
    if model in TRAINED
]
TABLES = [name for name in STUDY["sheet"] if not name.startswith("figure")]
LEDGER = ["claims"] if PAPER else []
# Figures 1, 3 and 8 have no rows in the sheet: they need an example, nothing, and two training curves.
DRAWABLE = {
    *STUDY["sheet"],
    "figure3",
    *(["figure1"] if EXAMPLE else []),
    *(["figure8"] if PAPER and len(CURVES) == 2 else []),
}
FIGURES = {
    f"figure{number}": [f"figure{number}{panel}" for panel in ("ab" if number == 2 else [""])]
    for number in (1, 2, 3, 4, 5, 7, 8)
    if f"figure{number}" in DRAWABLE
}
PICTURES = [file for files in FIGURES.values() for file in files]
# The library files behind tables, behind what shows a study's text and neighbors, and behind pages.
TABULATED = ("outputs/tabulate.py", "outputs/tables.py", "outputs/typeset.py", "outputs/markdown.py")
SHOWN = ("live/layout.py", "live/passages.py", "outputs/scored.py")
PAGE = ("outputs/pages.py", "outputs/markdown.py")
COMPARED = [name for name in ("temperature", "precision") if name in STUDY["sheet"]]  # their rows are in the explorer
REPORT = code_of(
    *PAGE,
    *(f"outputs/{name}.py" for name in ("report", "prose", "citation", "portable")),
    *(f"outputs/templates/report.{end}" for end in ("html.j2", "css")),
)
TABULATE = code_of(*TABULATED, "outputs/claims.py", "outputs/verdicts.py", "scores/experiments.py")


rule table:
    """Write one table beside the paper's numbers."""
    input:
        experiments=[RESULTS / "experiments/{table}.json"],
        curves=curves_of,
        paper=PAPER,
        published=PUBLISHED,
        code=TABULATE,
    output:
        written_table("{table}", "table.rst"),
    log:
        LOGS / "table/{table}.log",
    wildcard_constraints:
        table=one_of(TABLES),
    localrule: True
    params:
        inputs=flags("experiments", "curves", "paper", "published"),
        title=table_title,
        note=study_note,
        out=output_folder(),
    shell:
        "knnlm tabulate"
        " --table {wildcards.table:q}"
        " {params.inputs:q}"
        " --title={params.title:q}"
        " --note={params.note:q}"
        " --out {params.out:q}"
        " 2> {log:q}"


rule claims_table:
    """Write every claim of the paper with the paper's number, this study's, and whether it held."""
    input:
        experiments=expand(EXPERIMENT, output=STUDY["sheet"]),
        curves=CURVES,
        paper=PAPER,
        code=TABULATE,
    output:
        written_table("claims", "claims.rst"),
    log:
        LOGS / "table/claims.log",
    localrule: True
    params:
        inputs=flags("experiments", "curves", "paper"),
        note=study_note,
        out=output_folder(),
    shell:
        "knnlm tabulate"
        " --table claims"
        " {params.inputs:q}"
        " --note={params.note:q}"
        " --out {params.out:q}"
        " 2> {log:q}"


rule cost:
    """Write the jobs, seconds, peak memory and bytes of each stage."""
    input:
        experiments=expand(EXPERIMENT, output=STUDY["sheet"]),
        paper=PAPER,
        code=code_of(*TABULATED, "outputs/costs.py"),
    output:
        written_table("cost", "cost.rst"),
    log:
        LOGS / "table/cost.log",
    localrule: True
    params:
        benchmarks=str(BENCHMARKS),
        artifacts=[f"{RESULTS}/{stage}" for stage in STAGES],
        paper=flags("paper"),
        note=study_note,
        out=output_folder(),
    shell:
        "knnlm tabulate"
        " --table cost"
        " --benchmarks {params.benchmarks:q}"
        " --artifacts {params.artifacts:q}"
        " {params.paper:q}"
        " --note={params.note:q}"
        " --out {params.out:q}"
        " 2> {log:q}"


rule illustrate:
    """Choose the query that figure 1 shows and work it out."""
    input:
        experiment=RESULTS / "experiments/table1.json",
        code=code_of("outputs/illustrate.py", *SHOWN, "live/retrieval.py"),
    output:
        RESULTS / "figures/figure1.json",
    log:
        LOGS / "illustrate/figure1.log",
    localrule: True
    params:
        study=study_folder,
    shell:
        "knnlm illustrate" " --study {params.study:q}" " --out {output:q}" " 2> {log:q}"


for NAME in FIGURES:

    rule:
        """Draw one figure: its PDF, PNG and SVG, and the numbers in it."""
        name:
            f"draw_{NAME}"
        input:
            experiments=[f"{RESULTS}/experiments/{NAME}.json"] if NAME in STUDY["sheet"] else [],
            curves=CURVES if NAME == "figure8" else [],
            query=[RESULTS / "figures/figure1.json"] if NAME == "figure1" else [],
            paper=PAPER,
            code=code_of(
                *(f"outputs/{name}.py" for name in ("plot", "figures", "whiskers", "diagrams", "tables", "vectors")),
                "scores/experiments.py",
            ),
        output:
            drawn_figure(NAME),
        log:
            LOGS / f"draw/{NAME}.log",
        localrule: True
        params:
            figure=NAME,
            inputs=flags("experiments", "curves", "paper", "query"),
            out=output_folder(),
        shell:
            "knnlm plot" " --figure {params.figure:q}" " {params.inputs:q}" " --out {params.out:q}" " 2> {log:q}"


rule examples_pages:
    """Show the tokens that kNN helped most, with their neighbors."""
    input:
        experiment=RESULTS / "experiments/table1.json",
        code=code_of(
            "outputs/examples.py", *SHOWN, *PAGE, *(f"outputs/templates/examples.{end}.j2" for end in ("md", "html"))
        ),
    output:
        [f"{RESULTS}/examples/examples.{end}" for end in ("md", "html")],
    log:
        LOGS / "examples/examples.log",
    localrule: True
    params:
        study=study_folder,
        examples=STUDY["examples"]["count"],
        note=study_note,
        out=output_folder(),
    shell:
        "knnlm examples"
        " --study {params.study:q}"
        " --count {params.examples:q}"
        " --note={params.note:q}"
        " --out {params.out:q}"
        " 2> {log:q}"


rule explore:
    """Write the explorer: a page that shows each token's neighbors and what they did to its probability."""
    input:
        experiments=expand(EXPERIMENT, output=["table1", *COMPARED]),
        code=code_of(
            "outputs/explore.py",
            *SHOWN,
            *PAGE,
            *(f"outputs/{name}.py" for name in ("candidates", "packing", "spacing")),
        ),
        templates=code_of(*(f"outputs/templates/explorer{end}" for end in (".html.j2", ".css", ".js", "-panel.js"))),
    output:
        in_report("explorer.html", "page.rst", "Pages", page="neighbor explorer"),
    log:
        LOGS / "explore/explorer.log",
    benchmark:
        BENCHMARKS / "explore/explorer.jsonl"
    localrule: True
    params:
        study=study_folder,
        compare=["--compare", *COMPARED] if COMPARED else "",
        note=study_note,
    shell:
        "workflow/launch 0 explore"
        " --study {params.study:q}"
        " {params.compare:q}"
        " --note={params.note:q}"
        " --out {output:q}"
        " 2> {log:q}"


rule report:
    """Write one page with every table and figure, the configuration and what differs from the paper."""
    input:
        tables=[f"{RESULTS}/tables/{name}.md" for name in (*TABLES, *LEDGER, "cost")],
        figures=[f"{RESULTS}/figures/{file}.svg" for file in PICTURES],
        examples=[RESULTS / "examples/examples.md"] if EXAMPLE else [],
        explorer=[RESULTS / "explorer.html"] if EXAMPLE else [],
        configs=[*map(str, workflow.configfiles), STUDY["experiments"]],
        metas=report_models(),
        corpora=report_corpora(),
        deviations=["docs/differences.md"] if PAPER else [],
        citation=["CITATION.cff"],
        captions=[f"{CAPTIONS}/{file}.rst" for file in PICTURES],
        code=REPORT,
    output:
        in_report("report.html", "page.rst", "Pages", page="report"),
    log:
        LOGS / "report/report.log",
    localrule: True
    params:
        study=STUDY["study"],
        captions=lambda wildcards: CAPTIONS,
        inputs=flags(
            "tables", "figures", "examples", "explorer", "configs", "metas", "corpora", "deviations", "citation"
        ),
        own="" if PAPER else "--own",
        note=study_note,
    shell:
        "knnlm report"
        " --study {params.study:q}"
        " {params.inputs:q}"
        " {params.own:q}"
        " --captions {params.captions:q}"
        " --note={params.note:q}"
        " --out {output:q}"
        " 2> {log:q}"


rule tables:
    """Make every table."""
    input:
        [table_files(name) for name in (*TABLES, *LEDGER, "cost")],


rule figures:
    """Make every figure."""
    input:
        [figure_files(name) for name in FIGURES],


rule examples:
    """Make the pages of examples."""
    input:
        rules.examples_pages.output if EXAMPLE else [],


rule claims:
    """Make the table of the paper's claims."""
    input:
        table_files("claims") if LEDGER else [],


rule explorer:
    """Make the neighbor explorer."""
    input:
        rules.explore.output if EXAMPLE else [],


for NAME in TABLES:

    rule:
        """Make this table: Markdown, LaTeX and CSV."""
        name:
            NAME
        input:
            table_files(NAME),


for NAME in FIGURES:

    rule:
        """Make this figure: PDF, PNG, SVG and CSV."""
        name:
            NAME
        input:
            figure_files(NAME),


rule verify:
    """Compare every table and figure with the reference values in results/reference."""
    input:
        reference_tables,
        rules.tables.input,
        rules.figures.input,
    log:
        LOGS / "verify.log",
    localrule: True
    params:
        run=study_folder,
        reference=str(REFERENCE),
    shell:
        "knnlm verify" " --run {params.run:q}" " --reference {params.reference:q}" " 2> {log:q}"


rule crate:
    """Pack the study with its workflow and provenance into one file that can be deposited."""
    input:
        outputs=[
            *rules.tables.input,
            *rules.figures.input,
            *rules.examples.input,
            *rules.explorer.input,
            *rules.report.output,
        ],
        configs=[*map(str, workflow.configfiles), STUDY["experiments"]],
        code=code_of(*(f"outputs/{name}.py" for name in ("crate", "crate_metadata", "portable"))),
    output:
        f"{RESULTS}.crate.zip",
    log:
        LOGS / "crate.log",
    localrule: True
    params:
        study=study_folder,
        sources=lambda wildcards: SOURCES,
        inputs=flags("configs"),
    shell:
        "knnlm crate"
        " --study {params.study:q}"
        " --sources {params.sources:q}"
        " {params.inputs:q}"
        " --out {output:q}"
        " 2> {log:q}"
