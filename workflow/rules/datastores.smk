# Models to datastores, indexes and neighbors.

STREAMED = [name for name, datastore in STUDY["datastores"].items() if not datastore["store_keys"]]
STORED = [name for name in STUDY["datastores"] if name not in STREAMED]
OVERSAMPLED = 4  # entries extracted for each one that trains an index, because whole windows are extracted
# Priorities rise along the way from keys to scores, so that a datastore is done with before the next one is extracted:
# with `keep: needed`, its large files then go first.
EXTRACTION = {
    "model": input_folder("model"),
    "windows": model_setting("windows", "datastore"),
    "batch_tokens": model_setting("batch_tokens"),
    "precision": extraction_flags,
    "seed": STUDY["seed"],
}
# The command that the rules below complete, and its flags for one shard of a datastore.
EXTRACT = (
    "workflow/launch {resources.gpu:q} extract"
    " --model {params.model:q}"
    " --tokens {input.tokens:q}"
    " --windows {params.windows:q}"
    " --batch-tokens {params.batch_tokens:q}"
    " {params.precision:q}"
    " --seed {params.seed:q}"
    " --keytypes {params.keytypes:q}"
    " --out {params.out:q}"
)
ONE_SHARD = "--shard {wildcards.shard:q} --shards {wildcards.shards:q}"


rule extract:
    """Store the keys and values of one shard of the training tokens (equation 1)."""
    input:
        model=MODEL / "meta.json",
        tokens=train_tokens(),
    output:
        artifacts(datastore_keys(MAIN_KEYTYPE), *KEY_FILES),
    log:
        LOGS / "extract/{model}/seed{seed}/{corpus}" / f"{SHARD}.log",
    benchmark:
        BENCHMARKS / "extract/{model}/seed{seed}/{corpus}" / f"{SHARD}.jsonl"
    wildcard_constraints:
        **without(KEPT, "keytype"),
        corpus=one_of(STORED),
    threads: cpus("extract")
    resources:
        **needs("extract"),
    params:
        **EXTRACTION,
        keytypes=MAIN_KEYTYPE,
        out=output_folders(),
    shell:
        command(EXTRACT, ONE_SHARD, "2> {log:q}")


if KEEP_NEEDED:

    use rule extract as extract_seed with:
        """Store the keys of a further seed until they are searched; each seed waits for the one before it."""
        input:
            model=MODEL / "meta.json",
            tokens=train_tokens(),
            before=ancient(seed_before),
        output:
            passing(artifacts(datastore_keys(MAIN_KEYTYPE), *KEY_FILES)),
        wildcard_constraints:
            corpus=one_of(STORED),

    ruleorder: extract > extract_seed


for NUMBER, KEYTYPES in enumerate(PASSES):

    rule:
        """Store the keys of other types in one pass, for the comparison of key types."""
        name:
            f"extract_keytypes_{NUMBER}"
        input:
            model=MODEL / "meta.json",
            tokens=train_tokens(),
            before=ancient(passes_before(NUMBER)),
        output:
            [
                path
                for keytype in KEYTYPES
                for path in passing(artifacts(datastore_keys(keytype), *KEY_FILES), keytype in SHOWN_KEYTYPES)
            ],
        log:
            LOGS / f"extract_keytypes/{{model}}/seed{{seed}}/{{corpus}}/pass{NUMBER}" / f"{SHARD}.log",
        benchmark:
            BENCHMARKS / f"extract_keytypes/{{model}}/seed{{seed}}/{{corpus}}/pass{NUMBER}" / f"{SHARD}.jsonl"
        wildcard_constraints:
            corpus=one_of(STORED),
        priority: 1
        threads: cpus("extract_keytypes")
        resources:
            **needs("extract_keytypes"),
        params:
            **EXTRACTION,
            keytypes=output_keytypes,
            out=output_folders(),
        shell:
            command(EXTRACT, ONE_SHARD, "2> {log:q}")


rule sample_keys:
    """Extract a sample of keys to train the indexes of a datastore whose keys are not stored."""
    input:
        model=MODEL / "meta.json",
        tokens=train_tokens(),
    output:
        passing(artifact(KEYS / "sample", *KEY_FILES)),
    log:
        LOGS / "sample_keys/{model}/seed{seed}/{corpus}/{keytype}.log",
    benchmark:
        BENCHMARKS / "sample_keys/{model}/seed{seed}/{corpus}/{keytype}.jsonl"
    wildcard_constraints:
        corpus=one_of(STREAMED),
    threads: cpus("sample_keys")
    resources:
        **needs("sample_keys"),
    params:
        **EXTRACTION,
        entries=lambda wildcards: OVERSAMPLED * largest_sample(STUDY, wildcards.corpus),
        keytypes="{keytype}",
        out=output_folders(),
    shell:
        command(EXTRACT, "--entries {params.entries:q}", "2> {log:q}")


# A streamed datastore that examples show stays, of the model that they show.
STREAM_SHOWN = [name for name in STREAMED if KEEP_NEEDED and name == SHOWN_DATASTORE]

for DATASTORE, SHOWN in [*((name, False) for name in STREAMED), *((name, True) for name in STREAM_SHOWN)]:
    MODELS = [name for name in STUDY["models"] if DATASTORE not in STREAM_SHOWN or SHOWN == (name == SHOWN_MODEL)]
    STREAM = {"datastore": DATASTORE, "index": indexes_of(DATASTORE)}

    rule:
        """Extract one shard of a datastore straight into its indexes, without storing its keys."""
        name:
            f"stream_{DATASTORE}{'_shown' if SHOWN else ''}"
        input:
            model=MODEL / "meta.json",
            tokens=train_tokens(DATASTORE),
            trained=expand(INDEX / "trained.faiss", **STREAM, allow_missing=True),
            trained_meta=expand(INDEX / "trained.faiss.meta.json", **STREAM, allow_missing=True),
        output:
            passing(artifact(of_datastore(DATASTORE_KEYS / SHARD, DATASTORE), "values.npy", "ids.npy"), SHOWN),
            expand(INDEX / f"{SHARD}.faiss.meta.json", **STREAM, allow_missing=True),
            index=passing(expand(INDEX / f"{SHARD}.faiss", **STREAM, allow_missing=True), SHOWN),
        log:
            LOGS / "stream/{model}/seed{seed}" / DATASTORE / "{keytype}" / f"{SHARD}.log",
        benchmark:
            BENCHMARKS / "stream/{model}/seed{seed}" / DATASTORE / "{keytype}" / f"{SHARD}.jsonl"
        wildcard_constraints:
            model=one_of(MODELS),
        threads: cpus("stream", STREAM)
        resources:
            **needs("stream", STREAM),
        params:
            **EXTRACTION,
            keytypes="{keytype}",
            out=output_folder(),
        shell:
            command(EXTRACT, ONE_SHARD, "--trained {input.trained:q}", "--index {output.index:q}", "2> {log:q}")


rule train_index:
    """Train a FAISS index on a sample of the datastore's keys."""
    input:
        shards=training_keys,
    output:
        index=INDEX / "trained.faiss",
        meta=INDEX / "trained.faiss.meta.json",
    log:
        LOGS / "train_index/{model}/seed{seed}/{datastore}/{keytype}/{index}.log",
    benchmark:
        BENCHMARKS / "train_index/{model}/seed{seed}/{datastore}/{keytype}/{index}.jsonl"
    wildcard_constraints:
        **KEPT,
    priority: 2
    threads: cpus("train_index")
    resources:
        **needs("train_index"),
    params:
        shards=input_folders("shards"),
        settings=index_settings("factory", "metric", "sample", "seed"),
    shell:
        "workflow/launch {resources.gpu:q} train_index"
        " --keys {params.shards:q}"
        " --settings {params.settings:q}"
        " --out {output.index:q}"
        " 2> {log:q}"


if KEEP_NEEDED:

    use rule train_index as train_index_passing with:
        """Train a FAISS index that is deleted once it is searched."""
        output:
            index=passing([f"{INDEX}/trained.faiss"]),
            meta=INDEX / "trained.faiss.meta.json",
        wildcard_constraints:
            datastore=one_of(STUDY["datastores"]),

    ruleorder: train_index > train_index_passing


rule add:
    """Add one shard's keys to a copy of the trained index."""
    input:
        trained=INDEX / "trained.faiss",
        trained_meta=INDEX / "trained.faiss.meta.json",
        shard=artifact(DATASTORE_KEYS / SHARD, *KEY_FILES),
    output:
        index=INDEX / f"{SHARD}.faiss",
        meta=INDEX / f"{SHARD}.faiss.meta.json",
    log:
        LOGS / "add/{model}/seed{seed}/{datastore}/{keytype}/{index}" / f"{SHARD}.log",
    benchmark:
        BENCHMARKS / "add/{model}/seed{seed}/{datastore}/{keytype}/{index}" / f"{SHARD}.jsonl"
    wildcard_constraints:
        **KEPT,
        datastore=one_of(STORED),
    priority: 3
    threads: cpus("add")
    resources:
        **needs("add"),
    params:
        shard=input_folders("shard"),
    shell:
        "workflow/launch {resources.gpu:q} add"
        " --trained {input.trained:q}"
        " --keys {params.shard:q}"
        " --out {output.index:q}"
        " 2> {log:q}"


if KEEP_NEEDED:

    use rule add as add_passing with:
        """Add one shard's keys to a copy of an index that is deleted once it is searched."""
        output:
            index=passing([f"{INDEX / SHARD}.faiss"]),
            meta=INDEX / f"{SHARD}.faiss.meta.json",
        wildcard_constraints:
            datastore=one_of(STORED),

    ruleorder: add > add_passing


rule search:
    """Find the nearest entries of one shard for every token of dev and test, by the index's distances."""
    input:
        index=INDEX / f"{SHARD}.faiss",
        index_meta=INDEX / f"{SHARD}.faiss.meta.json",
        shard=artifact(DATASTORE_KEYS / SHARD, "ids.npy"),
        queries=wanted_queries("keys.npy"),
    output:
        passing(artifacts(tested(SEARCHED / SHARD), *SEARCHED_FILES)),
    log:
        LOGS / "search/{model}/seed{seed}/{corpus}/{datastore}/{keytype}/{index}" / f"{SHARD}.log",
    benchmark:
        BENCHMARKS / "search/{model}/seed{seed}/{corpus}/{datastore}/{keytype}/{index}" / f"{SHARD}.jsonl"
    priority: 4
    threads: cpus("search")
    resources:
        **needs("search"),
    params:
        shard=input_folders("shard"),
        queries=input_folders("queries"),
        settings=index_settings("nprobe"),
        k=STUDY["retrieval"]["k"],
        out=output_folders(),
    shell:
        "workflow/launch {resources.gpu:q} search"
        " --index {input.index:q}"
        " --keys {params.shard:q}"
        " --queries {params.queries:q}"
        " --settings {params.settings:q} --k {params.k:q}"
        " --out {params.out:q}"
        " 2> {log:q}"


use rule search as search_dev with:
    """Find the nearest entries of one shard for dev alone, where no output shows test."""
    output:
        passing(artifacts(dev_alone(SEARCHED / SHARD), *SEARCHED_FILES)),


use rule search as search_quantized with:
    """Find the nearest entries of a datastore's only shard, where no row asks for exact distances."""
    input:
        index=INDEX / "shard0of1.faiss",
        index_meta=INDEX / "shard0of1.faiss.meta.json",
        shard=artifact(DATASTORE_KEYS / "shard0of1", "ids.npy"),
        queries=wanted_queries("keys.npy"),
    output:
        artifacts(kept(NEIGHBORS / "quantized/shard0of1"), *SEARCHED_FILES),
    log:
        LOGS / "search_quantized/{model}/seed{seed}/{corpus}/{datastore}/{keytype}/{index}.log",
    benchmark:
        BENCHMARKS / "search_quantized/{model}/seed{seed}/{corpus}/{datastore}/{keytype}/{index}.jsonl"


if KEEP_NEEDED:

    use rule search_quantized as search_quantized_passing with:
        """Do what search_quantized does, where the neighbors are deleted once they are scored."""
        output:
            passing(artifacts(tested(NEIGHBORS / "quantized/shard0of1", but=KEPT_NEIGHBORS), *SEARCHED_FILES)),


use rule search_quantized as search_quantized_dev with:
    """Find the nearest entries of the only shard for dev alone, where no output shows test."""
    output:
        passing(artifacts(dev_alone(NEIGHBORS / "quantized/shard0of1"), *SEARCHED_FILES)),


rule merge:
    """Keep the nearest neighbors of several shards, as one index would have returned them."""
    input:
        shards=searched_shards,
        ids=shard_files("ids.npy"),
    output:
        passing(artifacts(tested(SEARCHED / "first{first}of{shards}"), *SEARCHED_FILES)),
    log:
        LOGS / "merge/{model}/seed{seed}/{corpus}/{datastore}/{keytype}/{index}/first{first}of{shards}.log",
    benchmark:
        BENCHMARKS / "merge/{model}/seed{seed}/{corpus}/{datastore}/{keytype}/{index}/first{first}of{shards}.jsonl"
    priority: 5
    threads: cpus("merge")
    resources:
        **needs("merge"),
    params:
        shards=input_folders("shards"),
        out=output_folders(),
    shell:
        "knnlm merge" " --shards {params.shards:q}" " --out {params.out:q}" " 2> {log:q}"


use rule merge as merge_dev with:
    """Keep the nearest neighbors of several shards for dev alone, where no output shows test."""
    output:
        passing(artifacts(dev_alone(SEARCHED / "first{first}of{shards}"), *SEARCHED_FILES)),


use rule merge as merge_quantized with:
    """Keep the nearest neighbors of several shards, where no row asks for exact distances."""
    output:
        artifacts(kept(NEIGHBORS / "quantized/first{first}of{shards}"), *SEARCHED_FILES),
    log:
        LOGS / "merge_quantized/{model}/seed{seed}/{corpus}/{datastore}/{keytype}/{index}/first{first}of{shards}.log",
    benchmark:
        BENCHMARKS
        / "merge_quantized/{model}/seed{seed}/{corpus}/{datastore}/{keytype}/{index}/first{first}of{shards}.jsonl"


if KEEP_NEEDED:

    use rule merge_quantized as merge_quantized_passing with:
        """Do what merge_quantized does, where the neighbors are deleted once they are scored."""
        output:
            passing(
                artifacts(tested(NEIGHBORS / "quantized/first{first}of{shards}", but=KEPT_NEIGHBORS), *SEARCHED_FILES)
            ),


use rule merge_quantized as merge_quantized_dev with:
    """Do what merge_quantized does for dev alone, where no output shows test."""
    output:
        passing(artifacts(dev_alone(NEIGHBORS / "quantized/first{first}of{shards}"), *SEARCHED_FILES)),


rule rerank:
    """Compute the exact distances of the nearest neighbors."""
    input:
        neighbors=merged_neighbors,
        shards=shard_files("keys.npy"),
        queries=wanted_queries("keys.npy"),
    output:
        artifacts(kept(NEIGHBORS / "exact/first{first}of{shards}"), *RERANKED_FILES),
    log:
        LOGS / "rerank/{model}/seed{seed}/{corpus}/{datastore}/{keytype}/{index}/first{first}of{shards}.log",
    benchmark:
        BENCHMARKS / "rerank/{model}/seed{seed}/{corpus}/{datastore}/{keytype}/{index}/first{first}of{shards}.jsonl"
    priority: 6
    threads: cpus("rerank")
    resources:
        **needs("rerank"),
    params:
        neighbors=input_folders("neighbors"),
        shards=input_folders("shards"),
        queries=input_folders("queries"),
        flags=rerank_flags,
        out=output_folders(),
    shell:
        "workflow/launch {resources.gpu:q} rerank"
        " --neighbors {params.neighbors:q}"
        " --keys {params.shards:q}"
        " --queries {params.queries:q}"
        " {params.flags:q}"
        " --out {params.out:q}"
        " 2> {log:q}"


if KEEP_NEEDED:

    use rule rerank as rerank_passing with:
        """Do what rerank does, where the neighbors are deleted once they are scored."""
        output:
            passing(artifacts(tested(NEIGHBORS / "exact/first{first}of{shards}", but=KEPT_NEIGHBORS), *RERANKED_FILES)),


use rule rerank as rerank_dev with:
    """Compute the exact distances of the nearest neighbors of dev alone, where no output shows test."""
    output:
        passing(artifacts(dev_alone(NEIGHBORS / "exact/first{first}of{shards}"), *RERANKED_FILES)),
