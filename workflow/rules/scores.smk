# Neighbors and tokens to log-probabilities, and these to the rows of every table and figure.

KNN_LOGPROBS = LOGPROBS / "knn/{model}/seed{seed}/{datastore}/{keytype}/{index}/first{first}of{shards}"
NGRAM_SPLITS = reported(lambda row: row["ngram"] not in (None, "infinite"))
TEXT_TOKENS = RESULTS / "tokens/{vocab}/{text}"


rule score_knn:
    """Turn neighbors into the log-probabilities of dev's and test's tokens (equation 2)."""
    input:
        neighbors=final_neighbors,
        values=shard_files("values.npy"),
        targets=wanted_queries("values.npy"),
    output:
        artifacts(tested(KNN_LOGPROBS)),
    log:
        LOGS / "score_knn/{model}/seed{seed}/{corpus}/{datastore}/{keytype}/{index}/first{first}of{shards}.log",
    benchmark:
        BENCHMARKS / "score_knn/{model}/seed{seed}/{corpus}/{datastore}/{keytype}/{index}/first{first}of{shards}.jsonl"
    priority: 7
    threads: cpus("score_knn")
    resources:
        **needs("score_knn"),
    params:
        neighbors=input_folders("neighbors"),
        targets=input_folders("targets"),
        scores=knn_scores,
        out=output_folders(),
    shell:
        "knnlm score_knn"
        " --neighbors {params.neighbors:q}"
        " --targets {params.targets:q}"
        " --scores {params.scores:q}"
        " --out {params.out:q}"
        " 2> {log:q}"


use rule score_knn as score_knn_dev with:
    """Turn neighbors into the log-probabilities of dev's tokens alone, where no output shows test."""
    output:
        artifacts(dev_alone(KNN_LOGPROBS)),


rule score_cache:
    """Score a split with the continuous cache, for each size and theta of its grid."""
    input:
        queries=of_keytype(QUERIES / "meta.json", MAIN_KEYTYPE),
        documents=held_out_documents,
    output:
        artifact(LOGPROBS / "cache/{model}/seed{seed}"),
    log:
        LOGS / "score_cache/{model}/seed{seed}/{corpus}/{split}.log",
    benchmark:
        BENCHMARKS / "score_cache/{model}/seed{seed}/{corpus}/{split}.jsonl"
    threads: cpus("score_cache")
    resources:
        **needs("score_cache"),
    params:
        queries=input_folder("queries"),
        sizes=STUDY["cache"]["sizes"],
        thetas=STUDY["cache"]["thetas"],
        out=output_folder(),
    shell:
        "knnlm score_cache"
        " --queries {params.queries:q}"
        " --documents {input.documents:q}"
        " --sizes {params.sizes:q}"
        " --thetas {params.thetas:q}"
        " --out {params.out:q}"
        " 2> {log:q}"


rule score_ngram:
    """Score dev and, where an output shows it, test with n-gram language models of the training text."""
    input:
        train=TOKENS / "train.npy",
        train_documents=TOKENS / "train.documents.npy",
        eval=splits(TOKENS / "{split}.npy", NGRAM_SPLITS),
        eval_documents=splits(TOKENS / "{split}.documents.npy", NGRAM_SPLITS),
        vocab=VOCAB / "vocab.json",
    output:
        artifacts(
            splits(LOGPROBS / "ngram/{vocab}", NGRAM_SPLITS),
            *(f"order{order}.npy" for order in STUDY["ngram"]["orders"]),
        ),
    log:
        LOGS / "score_ngram/{vocab}/{corpus}.log",
    benchmark:
        BENCHMARKS / "score_ngram/{vocab}/{corpus}.jsonl"
    threads: cpus("score_ngram")
    resources:
        **needs("score_ngram"),
    params:
        orders=STUDY["ngram"]["orders"],
        out=output_folders(),
    shell:
        "knnlm score_ngram"
        " --train {input.train:q}"
        " --train-documents {input.train_documents:q}"
        " --eval {input.eval:q}"
        " --eval-documents {input.eval_documents:q}"
        " --vocab {input.vocab:q} --orders {params.orders:q}"
        " --out {params.out:q}"
        " 2> {log:q}"


rule score_infinigram:
    """Score dev and test with an unbounded n-gram: the longest end of the context that stands in a training text."""
    input:
        train=TEXT_TOKENS / "train.npy",
        train_documents=TEXT_TOKENS / "train.documents.npy",
        tokens=splits(TOKENS / "{split}.npy"),
        documents=splits(TOKENS / "{split}.documents.npy"),
        vocab=VOCAB / "vocab.json",
    output:
        artifacts(splits(LOGPROBS / "infinigram/{vocab}/{text}"), "logprob.npy", "length.npy", "sparse.npy"),
    log:
        LOGS / "score_infinigram/{vocab}/{text}/{corpus}.log",
    benchmark:
        BENCHMARKS / "score_infinigram/{vocab}/{text}/{corpus}.jsonl"
    threads: cpus("score_infinigram")
    resources:
        **needs("score_infinigram"),
    params:
        vocab=input_folder("vocab"),
        out=output_folders(),
    shell:
        "knnlm score_infinigram"
        " --train {input.train:q}"
        " --train-documents {input.train_documents:q}"
        " --tokens {input.tokens:q}"
        " --documents {input.documents:q}"
        " --vocab {params.vocab:q}"
        " --out {params.out:q}"
        " 2> {log:q}"


rule interpolate:
    """Mix the log-probabilities of each row with weights tuned on dev (equation 3)."""
    input:
        experiment_inputs,
    output:
        experiment=EXPERIMENT,
        meta=f"{EXPERIMENT}.meta.json",
    log:
        LOGS / "interpolate/{output}.log",
    benchmark:
        BENCHMARKS / "interpolate/{output}.jsonl"
    wildcard_constraints:
        output=one_of(STUDY["sheet"]),
    threads: cpus("interpolate")
    resources:
        **needs("interpolate"),
    params:
        rows=experiment_rows,
        documents=experiment_documents,
        settings=as_json({"seed": STUDY["seed"]} | STUDY["mixture"]),
    shell:
        "knnlm interpolate"
        " --rows {params.rows:q}"
        " --documents {params.documents:q}"
        " --settings {params.settings:q}"
        " --out {output.experiment:q}"
        " 2> {log:q}"
