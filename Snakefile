# The kNN-LM study from raw text to every table and figure. `snakemake --list` explains the rules, README.md the targets.

from snakemake.utils import min_version

min_version("9.20")

if not workflow.configfiles:

    configfile: "config/smoke.yaml"


report: "workflow/report/study.rst"


# Used only with --software-deployment-method apptainer; apptainer.def says how to build it.
container: "knnlm.sif"


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/corpora.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/datastores.smk"
include: "workflow/rules/scores.smk"
include: "workflow/rules/outputs.smk"


if EXAMPLE:

    include: "workflow/rules/beyond.smk"


localrules:
    all,
    tables,
    figures,
    examples,
    claims,
    explorer,


rule all:
    """Make every table and figure, the examples, the explorer and the report."""
    default_target: True
    input:
        rules.tables.input,
        rules.figures.input,
        rules.examples.input,
        rules.explorer.input,
        rules.report.output,


onsuccess:
    logger.info(summary(RESULTS))
