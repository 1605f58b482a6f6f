def model_corpus(split):
    def path(wildcards):
        model = STUDY["models"][wildcards.model]
        return f"{R}/tokens/{model['vocab']}/{model['corpus']}/{split}.npy"

    return path


IMPORTED = [name for name, model in STUDY["models"].items() if "checkpoint" in model]
TRAINED = [name for name in STUDY["models"] if name not in IMPORTED]


rule import_fairseq:
    input:
        checkpoint=lambda w: STUDY["models"][w.model]["checkpoint"],
        vocab=lambda w: f"{R}/vocabs/{vocab_of(w)}/vocab.json",
    output:
        artifact(MODEL, "config.json", "model.safetensors", "curve.jsonl"),
    benchmark:
        R + "/benchmarks/import_fairseq/{model}/seed{seed}.jsonl"
    wildcard_constraints:
        model="|".join(IMPORTED) or "none",
    threads: cpus("import_fairseq")
    resources:
        **needs("import_fairseq"),
    params:
        dictionary=lambda w, input: f"{folder(input.vocab)}/dict.txt",
        out=lambda w, output: folder(output[0]),
    shell:
        "knnlm import_fairseq"
        " --checkpoint {input.checkpoint:q}"
        " --dictionary {params.dictionary:q}"
        " --out {params.out:q}"


rule train:
    input:
        train=model_corpus("train"),
        dev=model_corpus("dev"),
        vocab=lambda w: f"{R}/vocabs/{vocab_of(w)}/vocab.json",
    output:
        artifact(MODEL, "config.json", "model.safetensors", "curve.jsonl"),
    benchmark:
        R + "/benchmarks/train/{model}/seed{seed}.jsonl"
    wildcard_constraints:
        model="|".join(TRAINED) or "none",
    priority: 10
    threads: cpus("train")
    resources:
        **needs("train"),
        nodes=1,
    params:
        out=lambda w, output: folder(output[0]),
        architecture=model_setting("architecture"),
        training=model_setting("training"),
    shell:
        "workflow/launch {resources.gpu:q}/{resources.nodes:q} train"
        " --train {input.train:q}"
        " --dev {input.dev:q}"
        " --vocab {input.vocab:q}"
        " --architecture {params.architecture:q}"
        " --training {params.training:q}"
        " --seed {wildcards.seed:q}"
        " --out {params.out:q}"


rule evaluate:
    input:
        model=MODEL + "/meta.json",
        tokens=lambda w: [tokens_of(w, split) for split in SPLITS],
    output:
        logprob=[
            path for scores in splits(LOGPROBS + "/lm/{model}/seed{seed}") for path in artifact(scores, "logprob.npy")
        ],
        queries=[path for split in splits(QUERIES) for path in artifact(of_keytype(split, MAIN_KEYTYPE), *KEY_FILES)],
    benchmark:
        R + "/benchmarks/evaluate/{model}/seed{seed}/{corpus}.jsonl"
    threads: cpus("evaluate")
    resources:
        **needs("evaluate"),
    params:
        model=lambda w, input: folder(input.model),
        logprob=lambda w, output: folders(output.logprob),
        keytypes=MAIN_KEYTYPE,
        out=lambda w, output: folders(output.queries),
        windows=model_setting("windows", "evaluation"),
        batch_tokens=model_setting("batch_tokens"),
    shell:
        "workflow/launch {resources.gpu:q} evaluate"
        " --model {params.model:q}"
        " --tokens {input.tokens:q}"
        " --windows {params.windows:q}"
        " --batch-tokens {params.batch_tokens:q}"
        " --logprob {params.logprob:q}"
        " --keytypes {params.keytypes:q}"
        " --out {params.out:q}"


rule evaluate_keytypes:
    input:
        model=MODEL + "/meta.json",
        tokens=lambda w: [tokens_of(w, split) for split in SPLITS],
    output:
        [
            path
            for split in splits(QUERIES)
            for keytype in OTHER_KEYTYPES
            for path in artifact(of_keytype(split, keytype), *KEY_FILES)
        ],
    benchmark:
        R + "/benchmarks/evaluate_keytypes/{model}/seed{seed}/{corpus}.jsonl"
    threads: cpus("evaluate_keytypes")
    resources:
        **needs("evaluate_keytypes"),
    params:
        model=lambda w, input: folder(input.model),
        keytypes=OTHER_KEYTYPES,
        out=lambda w, output: folders(output),
        windows=model_setting("windows", "evaluation"),
        batch_tokens=model_setting("batch_tokens"),
    shell:
        "workflow/launch {resources.gpu:q} evaluate"
        " --model {params.model:q}"
        " --tokens {input.tokens:q}"
        " --windows {params.windows:q}"
        " --batch-tokens {params.batch_tokens:q}"
        " --keytypes {params.keytypes:q}"
        " --out {params.out:q}"
