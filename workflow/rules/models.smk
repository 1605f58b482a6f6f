# Tokens to models, their log-probabilities, and the keys of dev and test.

IMPORTED = [name for name, model in STUDY["models"].items() if "checkpoint" in model]
PRETRAINED = [name for name, model in STUDY["models"].items() if "pretrained" in model and "training" not in model]
FINETUNED = [name for name, model in STUDY["models"].items() if "pretrained" in model and "training" in model]
TRAINED = [name for name in STUDY["models"] if name not in (*IMPORTED, *PRETRAINED)]
EVALUATION = {
    "model": input_folder("model"),
    "windows": model_setting("windows", "evaluation"),
    "batch_tokens": model_setting("batch_tokens"),
    "precision": precision_flag,
}


rule import_fairseq:
    """Turn a checkpoint published in fairseq's format into a model of this project."""
    input:
        checkpoint=checkpoint,
        vocab=vocab_file,
        text=checkpoint_text,
    output:
        artifact(MODEL, *MODEL_FILES),
    log:
        LOGS / "import_fairseq/{model}/seed{seed}.log",
    benchmark:
        BENCHMARKS / "import_fairseq/{model}/seed{seed}.jsonl"
    wildcard_constraints:
        model=one_of(IMPORTED),
    threads: cpus("import_fairseq")
    resources:
        **needs("import_fairseq"),
    params:
        dictionary=dictionary,
        text=tried_text,
        out=output_folder(),
    shell:
        "knnlm import_fairseq"
        " --checkpoint {input.checkpoint:q}"
        " --dictionary {params.dictionary:q}"
        " {params.text:q}"
        " --out {params.out:q}"
        " 2> {log:q}"


rule import_pretrained:
    """Turn a published pretrained model into a model of this project."""
    input:
        archive=pretrained("path"),
        vocab=vocab_file,
    output:
        artifact(MODEL, *MODEL_FILES),
    log:
        LOGS / "import_pretrained/{model}/seed{seed}.log",
    benchmark:
        BENCHMARKS / "import_pretrained/{model}/seed{seed}.jsonl"
    wildcard_constraints:
        model=one_of(PRETRAINED),
    threads: cpus("import_pretrained")
    resources:
        **needs("import_pretrained"),
    params:
        **{name: pretrained(name) for name in ("member", "description", "licence", "sha256")},
        vocab=input_folder("vocab"),
        taps=own_taps,
        out=output_folder(),
    shell:
        "knnlm import_pretrained"
        " --archive {input.archive:q}"
        " --vocab {params.vocab:q}"
        " --member={params.member:q}"
        " --taps {params.taps:q}"
        " --description={params.description:q}"
        " --licence={params.licence:q}"
        " --sha256={params.sha256:q}"
        " --out {params.out:q}"
        " 2> {log:q}"


use rule import_pretrained as import_initial with:
    """Turn the published model that will be trained further into a model of this project."""
    output:
        artifact(INITIAL, *MODEL_FILES),
    log:
        LOGS / "import_initial/{model}.log",
    benchmark:
        BENCHMARKS / "import_initial/{model}.jsonl"
    wildcard_constraints:
        model=one_of(FINETUNED),


rule train:
    """Train a language model; stopped, it continues from its last saved state."""
    input:
        train=model_corpus("train"),
        dev=model_corpus("dev"),
        vocab=vocab_file,
    output:
        artifact(MODEL, *MODEL_FILES),
    log:
        LOGS / "train/{model}/seed{seed}.log",
    benchmark:
        BENCHMARKS / "train/{model}/seed{seed}.jsonl"
    wildcard_constraints:
        model=one_of([name for name in TRAINED if name not in FINETUNED]),
    priority: 10
    threads: cpus("train")
    resources:
        **needs("train", nodes=1),
    params:
        **{name: model_setting(name) for name in ("architecture", "training")},
        out=output_folder(),
    shell:
        "workflow/launch {resources.gpu:q}/{resources.nodes:q} train"
        " --train {input.train:q} --dev {input.dev:q}"
        " --vocab {input.vocab:q}"
        " --architecture {params.architecture:q} --training {params.training:q}"
        " --seed {wildcards.seed:q}"
        " --out {params.out:q}"
        " 2> {log:q}"


rule finetune:
    """Train a pretrained model further; stopped, it continues from its last saved state."""
    input:
        train=model_corpus("train"),
        dev=model_corpus("dev"),
        vocab=vocab_file,
        initial=initial,
    output:
        artifact(MODEL, *MODEL_FILES),
    log:
        LOGS / "finetune/{model}/seed{seed}.log",
    benchmark:
        BENCHMARKS / "finetune/{model}/seed{seed}.jsonl"
    wildcard_constraints:
        model=one_of(FINETUNED),
    priority: 10
    threads: cpus("train")
    resources:
        **needs("train", nodes=1),
    params:
        training=model_setting("training"),
        initial=input_folder("initial"),
        out=output_folder(),
    shell:
        "workflow/launch {resources.gpu:q}/{resources.nodes:q} train"
        " --train {input.train:q} --dev {input.dev:q}"
        " --vocab {input.vocab:q}"
        " --initial {params.initial:q} --training {params.training:q}"
        " --seed {wildcards.seed:q}"
        " --out {params.out:q}"
        " 2> {log:q}"


rule evaluate:
    """Score dev and test with the language model and keep the keys of their tokens as queries."""
    input:
        model=MODEL / "meta.json",
        tokens=held_out_tokens,
    output:
        logprob=artifacts(tested(LOGPROBS / "lm/{model}/seed{seed}"), "logprob.npy"),
        queries=artifacts(tested(of_keytype(QUERIES, MAIN_KEYTYPE)), *KEY_FILES),
    log:
        LOGS / "evaluate/{model}/seed{seed}/{corpus}.log",
    benchmark:
        BENCHMARKS / "evaluate/{model}/seed{seed}/{corpus}.jsonl"
    threads: cpus("evaluate")
    resources:
        **needs("evaluate"),
    params:
        **EVALUATION,
        logprob=output_folders("logprob"),
        keytypes=MAIN_KEYTYPE,
        out=output_folders("queries"),
    shell:
        "workflow/launch {resources.gpu:q} evaluate"
        " --model {params.model:q}"
        " --tokens {input.tokens:q}"
        " --windows {params.windows:q}"
        " --batch-tokens {params.batch_tokens:q}"
        " {params.precision:q}"
        " --logprob {params.logprob:q}"
        " --keytypes {params.keytypes:q} --out {params.out:q}"
        " 2> {log:q}"


use rule evaluate as evaluate_dev with:
    """Score dev alone, where no output shows test."""
    output:
        logprob=artifacts(dev_alone(LOGPROBS / "lm/{model}/seed{seed}"), "logprob.npy"),
        queries=artifacts(dev_alone(of_keytype(QUERIES, MAIN_KEYTYPE)), *KEY_FILES),


if OTHERS:

    rule evaluate_keytypes:
        """Keep the keys of all other types that are compared, of dev and where an output shows it of test."""
        input:
            model=MODEL / "meta.json",
            tokens=keytypes_tokens,
        output:
            passing(artifacts(queries(*OTHERS), *KEY_FILES)),
        log:
            LOGS / "evaluate_keytypes/{model}/seed{seed}/{corpus}.log",
        benchmark:
            BENCHMARKS / "evaluate_keytypes/{model}/seed{seed}/{corpus}.jsonl"
        threads: cpus("evaluate_keytypes")
        resources:
            **needs("evaluate_keytypes"),
        params:
            **EVALUATION,
            keytypes=output_keytypes,
            out=output_folders(),
        shell:
            "workflow/launch {resources.gpu:q} evaluate"
            " --model {params.model:q}"
            " --tokens {input.tokens:q}"
            " --windows {params.windows:q}"
            " --batch-tokens {params.batch_tokens:q}"
            " {params.precision:q}"
            " --keytypes {params.keytypes:q}"
            " --out {params.out:q}"
            " 2> {log:q}"
