rule score_knn:
    input:
        neighbors=lambda w: [
            f"{split}/{merged(w.first, w.shards)}/meta.json".format(**dict(w)) for split in splits(NEIGHBORS)
        ],
        targets=splits(QUERIES + "/meta.json"),
    output:
        splits(LOGPROBS + "/knn/{model}/seed{seed}/{datastore}/{keytype}/{index}/first{first}of{shards}/meta.json"),
    benchmark:
        R
        + "/benchmarks/score_knn/{model}/seed{seed}/{corpus}/{datastore}/{keytype}/{index}/first{first}of{shards}.jsonl"
    threads: cpus("score_knn")
    resources:
        **needs("score_knn"),
    params:
        neighbors=lambda w, input: folders(input.neighbors),
        targets=lambda w, input: folders(input.targets),
        out=lambda w, output: folders(output),
        scores=lambda w: as_json(
            scores_needed(
                STUDY,
                model=w.model,
                corpus=w.corpus,
                datastore=w.datastore,
                keytype=w.keytype,
                index=w.index,
                shards=int(w.first),
            )
        ),
    shell:
        "knnlm score_knn"
        " --neighbors {params.neighbors:q}"
        " --targets {params.targets:q}"
        " --scores {params.scores:q}"
        " --out {params.out:q}"


rule score_cache:
    input:
        queries=of_keytype(QUERIES, MAIN_KEYTYPE) + "/meta.json",
        documents=lambda w: documents(vocab_of(w), w.corpus, w.split),
    output:
        artifact(LOGPROBS + "/cache/{model}/seed{seed}"),
    benchmark:
        R + "/benchmarks/score_cache/{model}/seed{seed}/{corpus}/{split}.jsonl"
    threads: cpus("score_cache")
    resources:
        **needs("score_cache"),
    params:
        queries=lambda w, input: folder(input.queries),
        out=lambda w, output: folder(output[0]),
        sizes=STUDY["cache"]["sizes"],
        thetas=STUDY["cache"]["thetas"],
    shell:
        "knnlm score_cache"
        " --queries {params.queries:q}"
        " --documents {input.documents:q}"
        " --sizes {params.sizes:q}"
        " --thetas {params.thetas:q}"
        " --out {params.out:q}"


rule score_ngram:
    input:
        train=R + "/tokens/{vocab}/{corpus}/train.npy",
        train_documents=R + "/tokens/{vocab}/{corpus}/train.documents.npy",
        eval=splits(R + "/tokens/{vocab}/{corpus}/{split}.npy"),
        eval_documents=splits(R + "/tokens/{vocab}/{corpus}/{split}.documents.npy"),
        vocab=R + "/vocabs/{vocab}/vocab.json",
    output:
        [
            path
            for scores in splits(LOGPROBS + "/ngram/{vocab}")
            for path in artifact(scores, *[f"order{order}.npy" for order in STUDY["ngram"]["orders"]])
        ],
    benchmark:
        R + "/benchmarks/score_ngram/{vocab}/{corpus}.jsonl"
    threads: cpus("score_ngram")
    resources:
        **needs("score_ngram"),
    params:
        out=lambda w, output: folders(output),
        orders=STUDY["ngram"]["orders"],
    shell:
        "knnlm score_ngram"
        " --train {input.train:q}"
        " --train-documents {input.train_documents:q}"
        " --eval {input.eval:q}"
        " --eval-documents {input.eval_documents:q}"
        " --vocab {input.vocab:q}"
        " --orders {params.orders:q}"
        " --out {params.out:q}"


def row_scores(row, seed, split):
    """Where a row's log-probabilities lie: {component: path}, the cache's being its whole grid's folder."""
    base = f"{R}/logprobs/{row['corpus']}/{split}"
    run = f"{row['model']}/seed{seed}"
    paths = {"lm": f"{base}/lm/{run}/logprob.npy"}
    if row["datastore"]:
        found = f"{run}/{row['datastore']}/{row['keytype']}/{row['index']}/first{row['shards']}of{row['of']}"
        paths["knn"] = f"{base}/knn/{found}/{row['distance']}-k{row['k']}-t{row['temperature']:g}.npy"
    if row["cache"]:
        paths["cache"] = f"{base}/cache/{run}"
    if row["ngram"]:
        paths["ngram"] = f"{base}/ngram/{row['vocab']}/order{row['ngram']}.npy"
    if row["memorizing"]:
        paths["memorizing"] = (
            f"{base}/lm/{row['memorizing']}/seed{STUDY['models'][row['memorizing']]['seeds'][0]}/logprob.npy"
        )
    return paths


def row_neighbors(row, split):
    where = dict(row, seed=row["seeds"][0], split=split)
    return f"{NEIGHBORS}/{merged(row['shards'], row['of'])}".format(**where)


def interpolate_row(row):
    """What `interpolate` is told of one row: its facts and where its scores lie, by split and seed."""
    scores = {split: [row_scores(row, seed, split) for seed in row["seeds"]] for split in SPLITS}
    told = {key: row[key] for key in ("name", "label", "corpus", "model", "seeds", "ngram", "memorizing")}
    told["model_dirs"] = [MODEL.format(model=row["model"], seed=seed) for seed in row["seeds"]]
    told["lm"] = {split: [paths.pop("lm") for paths in scores[split]] for split in SPLITS}
    told["components"] = {
        part: {split: [paths[part] for paths in scores[split]] for split in SPLITS} for part in scores["dev"][0]
    }
    told["datastore"] = None
    if row["datastore"]:
        told["datastore"] = {
            key: row[key] for key in ("keytype", "index", "distance", "k", "temperature", "shards", "of")
        } | {"corpus": row["datastore"], "neighbors": row_neighbors(row, "dev")}
    return told


def experiment_inputs(wildcards):
    """Every file that an output's rows are computed from; a folder of scores is named by its meta.json."""
    needed = set()
    for row in STUDY["sheet"][wildcards.output]:
        for split in SPLITS:
            needed.add(documents(row["vocab"], row["corpus"], split))
            for seed in row["seeds"]:
                for part, path in row_scores(row, seed, split).items():
                    needed.add(f"{path}/meta.json" if part == "cache" else f"{folder(path)}/meta.json")
        needed |= {MODEL.format(model=row["model"], seed=seed) + "/meta.json" for seed in row["seeds"]}
        if row["datastore"]:
            needed.add(row_neighbors(row, "dev") + "/meta.json")
    return sorted(needed)


rule interpolate:
    input:
        experiment_inputs,
    output:
        file_artifact(R + "/experiments/{output}.json"),
    benchmark:
        R + "/benchmarks/interpolate/{output}.jsonl"
    wildcard_constraints:
        output="|".join(STUDY["sheet"]),
    threads: cpus("interpolate")
    resources:
        **needs("interpolate"),
    params:
        rows=lambda w: as_json([interpolate_row(row) for row in STUDY["sheet"][w.output]]),
        documents=lambda w: as_json(
            {
                row["corpus"]: {split: documents(row["vocab"], row["corpus"], split) for split in SPLITS}
                for row in STUDY["sheet"][w.output]
            }
        ),
        settings=as_json({"seed": STUDY["seed"]} | STUDY["mixture"]),
    shell:
        "knnlm interpolate"
        " --rows {params.rows:q}"
        " --documents {params.documents:q}"
        " --settings {params.settings:q}"
        " --out {output[0]:q}"
