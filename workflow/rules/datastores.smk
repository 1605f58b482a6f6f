def datastore_shards(pattern):
    """A function of wildcards: one path for each shard of the datastore."""

    def paths(wildcards):
        shards = STUDY["datastores"][wildcards.datastore]["shards"]
        return [pattern.format(**dict(wildcards), shard=i, shards=shards) for i in range(shards)]

    return paths


def training_keys(wildcards):
    """What an index is trained on: the stored keys, or a sample of those that are not."""
    if wildcards.datastore in STREAMED:
        return (DATASTORE_KEYS.replace(SHARD, "/sample") + "/meta.json").format(**dict(wildcards))
    return datastore_shards(DATASTORE_KEYS + "/meta.json")(wildcards)


def index_settings(*names):
    """A function of wildcards: some of the index's settings as JSON, so that others rerun nothing."""
    return lambda wildcards: as_json({name: STUDY["indexes"][wildcards.index][name] for name in names})


STREAMED = [name for name, datastore in STUDY["datastores"].items() if not datastore["store_keys"]]
STORED = "|".join(name for name in STUDY["datastores"] if name not in STREAMED) or "none"
OVERSAMPLED = 4  # entries to draw an index's training sample from, for each one drawn; whole windows are extracted
SHARD = "/shard{shard}of{shards}"
TRAIN_KEYS = KEYS.replace("{split}", "train") + SHARD
DATASTORE_KEYS = TRAIN_KEYS.replace("{corpus}", "{datastore}")


rule extract:
    input:
        model=MODEL + "/meta.json",
        tokens=lambda w: tokens_of(w, "train"),
    output:
        artifact(of_keytype(TRAIN_KEYS, MAIN_KEYTYPE), *KEY_FILES),
    benchmark:
        R + "/benchmarks/extract/{model}/seed{seed}/{corpus}/shard{shard}of{shards}.jsonl"
    wildcard_constraints:
        corpus=STORED,
    threads: cpus("extract")
    resources:
        **needs("extract"),
    params:
        model=lambda w, input: folder(input.model),
        keytypes=MAIN_KEYTYPE,
        out=lambda w, output: folders(output),
        windows=model_setting("windows", "datastore"),
        batch_tokens=model_setting("batch_tokens"),
        seed=STUDY["seed"],
    shell:
        "workflow/launch {resources.gpu:q} extract"
        " --model {params.model:q}"
        " --tokens {input.tokens:q}"
        " --windows {params.windows:q}"
        " --shard {wildcards.shard:q}"
        " --shards {wildcards.shards:q}"
        " --seed {params.seed:q}"
        " --batch-tokens {params.batch_tokens:q}"
        " --keytypes {params.keytypes:q}"
        " --out {params.out:q}"


use rule extract as extract_keytypes with:
    output:
        [path for keytype in OTHER_KEYTYPES for path in artifact(of_keytype(TRAIN_KEYS, keytype), *KEY_FILES)],
    benchmark:
        R + "/benchmarks/extract_keytypes/{model}/seed{seed}/{corpus}/shard{shard}of{shards}.jsonl"
    threads: cpus("extract_keytypes")
    resources:
        **needs("extract_keytypes"),
    params:
        model=lambda w, input: folder(input.model),
        keytypes=OTHER_KEYTYPES,
        out=lambda w, output: folders(output),
        windows=model_setting("windows", "datastore"),
        batch_tokens=model_setting("batch_tokens"),
        seed=STUDY["seed"],


rule sample_keys:
    input:
        model=MODEL + "/meta.json",
        tokens=lambda w: tokens_of(w, "train"),
    output:
        artifact(TRAIN_KEYS.replace(SHARD, "/sample"), *KEY_FILES),
    benchmark:
        R + "/benchmarks/sample_keys/{model}/seed{seed}/{corpus}/{keytype}.jsonl"
    wildcard_constraints:
        corpus="|".join(STREAMED) or "none",
    threads: cpus("sample_keys")
    resources:
        **needs("sample_keys"),
    params:
        model=lambda w, input: folder(input.model),
        out=lambda w, output: folders(output),
        windows=model_setting("windows", "datastore"),
        batch_tokens=model_setting("batch_tokens"),
        entries=OVERSAMPLED * max(index["sample"] for index in STUDY["indexes"].values()),
        seed=STUDY["seed"],
    shell:
        "workflow/launch {resources.gpu:q} extract"
        " --model {params.model:q}"
        " --tokens {input.tokens:q}"
        " --windows {params.windows:q}"
        " --seed {params.seed:q}"
        " --entries {params.entries:q}"
        " --batch-tokens {params.batch_tokens:q}"
        " --keytypes {wildcards.keytype:q}"
        " --out {params.out:q}"


rule train_index:
    input:
        training_keys,
    output:
        file_artifact(INDEX + "/trained.faiss"),
    benchmark:
        R + "/benchmarks/train_index/{model}/seed{seed}/{datastore}/{keytype}/{index}.jsonl"
    threads: cpus("train_index")
    resources:
        **needs("train_index"),
    params:
        datastore=lambda w, input: folders(input),
        settings=index_settings("factory", "metric", "sample", "seed"),
    shell:
        "workflow/launch {resources.gpu:q} train_index"
        " --keys {params.datastore:q}"
        " --settings {params.settings:q}"
        " --out {output[0]:q}"


rule add:
    input:
        trained=INDEX + "/trained.faiss",
        datastore=DATASTORE_KEYS + "/meta.json",
    output:
        file_artifact(INDEX + SHARD + ".faiss"),
    benchmark:
        R + "/benchmarks/add/{model}/seed{seed}/{datastore}/{keytype}/{index}/shard{shard}of{shards}.jsonl"
    wildcard_constraints:
        datastore=STORED,
    threads: cpus("add")
    resources:
        **needs("add"),
    params:
        datastore=lambda w, input: folder(input.datastore),
    shell:
        "workflow/launch {resources.gpu:q} add"
        " --trained {input.trained:q}"
        " --keys {params.datastore:q}"
        " --out {output[0]:q}"


for DATASTORE in STREAMED:
    INDEXES = sorted({row["index"] for row in rows(STUDY) if row["datastore"] == DATASTORE})

    rule:
        name:
            f"stream_{DATASTORE}"
        input:
            model=MODEL + "/meta.json",
            tokens=lambda w, datastore=DATASTORE: f"{R}/tokens/{vocab_of(w)}/{datastore}/train.npy",
            trained=expand(INDEX + "/trained.faiss", datastore=DATASTORE, index=INDEXES, allow_missing=True),
        output:
            artifact(DATASTORE_KEYS.replace("{datastore}", DATASTORE), "values.npy", "ids.npy"),
            expand(INDEX + SHARD + ".faiss.meta.json", datastore=DATASTORE, index=INDEXES, allow_missing=True),
            index=expand(INDEX + SHARD + ".faiss", datastore=DATASTORE, index=INDEXES, allow_missing=True),
        benchmark:
            R + "/benchmarks/stream/{model}/seed{seed}/" + DATASTORE + "/{keytype}/shard{shard}of{shards}.jsonl"
        threads: cpus("stream", datastore=DATASTORE, index=INDEXES)
        resources:
            **needs("stream", datastore=DATASTORE, index=INDEXES),
        params:
            model=lambda w, input: folder(input.model),
            out=lambda w, output: folder(output[0]),
            windows=model_setting("windows", "datastore"),
            batch_tokens=model_setting("batch_tokens"),
            seed=STUDY["seed"],
        shell:
            "workflow/launch {resources.gpu:q} stream"
            " --model {params.model:q}"
            " --tokens {input.tokens:q}"
            " --trained {input.trained:q}"
            " --index {output.index:q}"
            " --windows {params.windows:q}"
            " --shard {wildcards.shard:q}"
            " --shards {wildcards.shards:q}"
            " --seed {params.seed:q}"
            " --batch-tokens {params.batch_tokens:q}"
            " --keytype {wildcards.keytype:q}"
            " --out {params.out:q}"


rule search:
    input:
        index=INDEX + SHARD + ".faiss",
        datastore=DATASTORE_KEYS + "/meta.json",
        queries=splits(QUERIES + "/meta.json"),
    output:
        [
            path
            for found in splits(NEIGHBORS + SHARD)
            for path in artifact(found, "ids.npy", "distances.npy", "values.npy")
        ],
    benchmark:
        R + "/benchmarks/search/{model}/seed{seed}/{corpus}/{datastore}/{keytype}/{index}/shard{shard}of{shards}.jsonl"
    threads: cpus("search")
    resources:
        **needs("search"),
    params:
        datastore=lambda w, input: folder(input.datastore),
        queries=lambda w, input: folders(input.queries),
        settings=index_settings("nprobe"),
        k=STUDY["retrieval"]["k"],
        out=lambda w, output: folders(output),
    shell:
        "workflow/launch {resources.gpu:q} search"
        " --index {input.index:q}"
        " --keys {params.datastore:q}"
        " --queries {params.queries:q}"
        " --settings {params.settings:q}"
        " --k {params.k:q}"
        " --out {params.out:q}"


rule merge:
    input:
        lambda w: [
            f"{split}/shard{i}of{w.shards}/meta.json".format(**dict(w))
            for split in splits(NEIGHBORS)
            for i in range(int(w.first))
        ],
    output:
        [
            path
            for found in splits(NEIGHBORS + "/first{first}of{shards}")
            for path in artifact(found, "ids.npy", "distances.npy", "values.npy")
        ],
    benchmark:
        R + "/benchmarks/merge/{model}/seed{seed}/{corpus}/{datastore}/{keytype}/{index}/first{first}of{shards}.jsonl"
    threads: cpus("merge")
    resources:
        **needs("merge"),
    params:
        shards=lambda w, input: folders(input),
        out=lambda w, output: folders(output),
    shell:
        "knnlm merge" " --shards {params.shards:q}" " --out {params.out:q}"
