# The kNN-LM study from raw text to every table and figure. README.md lists the targets.

if not workflow.configfiles:

    configfile: "config/smoke.yaml"


report: "workflow/report/study.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/corpora.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/datastores.smk"
include: "workflow/rules/scores.smk"
include: "workflow/rules/outputs.smk"


localrules:
    all,
    tables,
    figures,
    examples,
    claims,
    explorer,


rule all:
    default_target: True
    input:
        rules.tables.input,
        rules.figures.input,
        rules.examples.input,
        rules.explorer.input,
        rules.report.output,
