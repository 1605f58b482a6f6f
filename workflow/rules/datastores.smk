def datastore_shards(pattern):
    """A function of wildcards: one path for each shard of the datastore."""

    def paths(wildcards):
        shards = STUDY["datastores"][wildcards.datastore]["shards"]
        return [pattern.format(**dict(wildcards), shard=i, shards=shards) for i in range(shards)]

    return paths


def index_settings(*names):
    """A function of wildcards: some of the index's settings as JSON, so that others rerun nothing."""
    return lambda wildcards: as_json({name: STUDY["indexes"][wildcards.index][name] for name in names})


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
    params:
        model=lambda w, input: folder(input.model),
        keytypes=MAIN_KEYTYPE,
        out=lambda w, output: folders(output),
        windows=model_setting("windows", "datastore"),
        batch_tokens=model_setting("batch_tokens"),
        seed=STUDY["seed"],
    shell:
        "python -m knnlm.extract"
        " --model {params.model}"
        " --tokens {input.tokens}"
        " --windows {params.windows:q}"
        " --shard {wildcards.shard}"
        " --shards {wildcards.shards}"
        " --seed {params.seed}"
        " --batch-tokens {params.batch_tokens}"
        " --keytypes {params.keytypes}"
        " --out {params.out}"


use rule extract as extract_keytypes with:
    output:
        [path for keytype in OTHER_KEYTYPES for path in artifact(of_keytype(TRAIN_KEYS, keytype), *KEY_FILES)],
    benchmark:
        R + "/benchmarks/extract_keytypes/{model}/seed{seed}/{corpus}/shard{shard}of{shards}.jsonl"
    params:
        model=lambda w, input: folder(input.model),
        keytypes=OTHER_KEYTYPES,
        out=lambda w, output: folders(output),
        windows=model_setting("windows", "datastore"),
        batch_tokens=model_setting("batch_tokens"),
        seed=STUDY["seed"],


rule train_index:
    input:
        datastore_shards(DATASTORE_KEYS + "/meta.json"),
    output:
        index=INDEX + "/trained.faiss",
        settings=INDEX + "/trained.json",
    benchmark:
        R + "/benchmarks/train_index/{model}/seed{seed}/{datastore}/{keytype}/{index}.jsonl"
    params:
        datastore=lambda w, input: folders(input),
        settings=index_settings("factory", "metric", "sample", "seed"),
    shell:
        "python -m knnlm.train_index"
        " --keys {params.datastore}"
        " --settings {params.settings:q}"
        " --out {output.index}"


rule add:
    input:
        trained=INDEX + "/trained.faiss",
        datastore=DATASTORE_KEYS + "/meta.json",
    output:
        INDEX + SHARD + ".faiss",
    benchmark:
        R + "/benchmarks/add/{model}/seed{seed}/{datastore}/{keytype}/{index}/shard{shard}of{shards}.jsonl"
    params:
        datastore=lambda w, input: folder(input.datastore),
    shell:
        "python -m knnlm.add" " --trained {input.trained}" " --keys {params.datastore}" " --out {output}"


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
    params:
        datastore=lambda w, input: folder(input.datastore),
        queries=lambda w, input: folders(input.queries),
        settings=index_settings("nprobe"),
        k=STUDY["retrieval"]["k"],
        out=lambda w, output: folders(output),
    shell:
        "python -m knnlm.search"
        " --index {input.index}"
        " --keys {params.datastore}"
        " --queries {params.queries}"
        " --settings {params.settings:q}"
        " --k {params.k}"
        " --out {params.out}"


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
    params:
        shards=lambda w, input: folders(input),
        out=lambda w, output: folders(output),
    shell:
        "python -m knnlm.merge" " --shards {params.shards}" " --out {params.out}"
