with open(STUDY["archives"]) as file:
    CATALOGUE = yaml.safe_load(file)
SPLIT_FILES = [f"{split}{end}" for split in ("train", "dev", "test") for end in (".txt", ".documents.jsonl")]
TOKEN_FILES = [f"{split}{end}" for split in ("train", "dev", "test") for end in (".npy", ".documents.npy")]
PREPARED = [name for name, corpus in STUDY["corpora"].items() if "sources" in corpus]
SUBSETS = [name for name, corpus in STUDY["corpora"].items() if "subset_of" in corpus]


def archives(wildcards):
    sources = STUDY["corpora"][wildcards.corpus]["sources"]
    for number, source in enumerate(sources):
        if not (
            workflow.dryrun or source_is_there(source) or Path(f"{R}/corpora/{wildcards.corpus}/meta.json").exists()
        ):
            where = f"corpora.{wildcards.corpus}.sources[{number}].path"
            sys.exit(f"error: {where}: {source['path']} is not there; fill it or name another")
    named = {source["archive"] for source in sources if "archive" in source}
    return [f"{STUDY['downloads']}/{name}" for name in sorted(named)]


def pinned(names):
    return [f"{name}={CATALOGUE[name]['sha256']}" for name in names if CATALOGUE[name].get("sha256")]


rule fetch:
    output:
        STUDY["downloads"] + "/{archive}",
    benchmark:
        R + "/benchmarks/fetch/{archive}.jsonl"
    wildcard_constraints:
        archive="|".join(CATALOGUE),
    localrule: True
    params:
        catalogue=STUDY["archives"],
    shell:
        "knnlm fetch"
        " --archive {wildcards.archive:q}"
        " --catalogue {params.catalogue:q}"
        " --out {output:q}"


rule prepare:
    input:
        archives,
    output:
        artifact(R + "/corpora/{corpus}", *SPLIT_FILES),
    benchmark:
        R + "/benchmarks/prepare/{corpus}.jsonl"
    wildcard_constraints:
        corpus="|".join(PREPARED),
    threads: cpus("prepare")
    resources:
        **needs("prepare"),
    params:
        out=lambda w, output: folder(output[0]),
        archives=lambda w, input: [f"{Path(path).name}={path}" for path in input],
        sha256=lambda w, input: pinned(Path(path).name for path in input),
        settings=lambda w: as_json({"seed": STUDY["seed"]} | without(STUDY["corpora"][w.corpus], "token_shards")),
    shell:
        "knnlm prepare"
        " --archives {params.archives:q}"
        " --sha256 {params.sha256:q}"
        " --settings {params.settings:q}"
        " --out {params.out:q}"


rule subset:
    input:
        lambda w: artifact(f"{R}/corpora/{STUDY['corpora'][w.corpus]['subset_of']}", *SPLIT_FILES),
    output:
        artifact(R + "/corpora/{corpus}", *SPLIT_FILES),
    benchmark:
        R + "/benchmarks/prepare/{corpus}.jsonl"
    wildcard_constraints:
        corpus="|".join(SUBSETS) or "none",
    threads: cpus("subset")
    resources:
        **needs("subset"),
    params:
        corpus=lambda w, input: folder(input[0]),
        out=lambda w, output: folder(output[0]),
        fraction=lambda w: STUDY["corpora"][w.corpus]["fraction"],
        seed=STUDY["seed"],
    shell:
        "knnlm subset"
        " --corpus {params.corpus:q}"
        " --fraction {params.fraction:q}"
        " --seed {params.seed:q}"
        " --out {params.out:q}"


rule vocab:
    input:
        lambda w: [f"{R}/corpora/{corpus}/meta.json" for corpus in STUDY["vocabs"][w.vocab]["corpora"]],
    output:
        artifact(R + "/vocabs/{vocab}", "vocab.json"),
    benchmark:
        R + "/benchmarks/vocab/{vocab}.jsonl"
    threads: cpus("vocab")
    resources:
        **needs("vocab"),
    params:
        corpora=lambda w, input: folders(input),
        out=lambda w, output: folder(output[0]),
        settings=lambda w: as_json({"seed": STUDY["seed"]} | without(STUDY["vocabs"][w.vocab], "corpora")),
    shell:
        "knnlm build_vocab"
        " --corpora {params.corpora:q}"
        " --settings {params.settings:q}"
        " --out {params.out:q}"


def token_shards(wildcards):
    """The shards that train is encoded in by jobs of their own; none where the corpus asks for one."""
    shards = STUDY["corpora"][wildcards.corpus].get("token_shards", 1)
    return [f"{TOKENS}/shard{i}of{shards}/meta.json".format(**dict(wildcards)) for i in range(shards) if shards > 1]


rule binarize_shard:
    input:
        vocab=R + "/vocabs/{vocab}/meta.json",
        corpus=R + "/corpora/{corpus}/meta.json",
    output:
        artifact(TOKENS + "/shard{shard}of{shards}", "train.npy", "train.documents.npy"),
    benchmark:
        R + "/benchmarks/binarize/{vocab}/{corpus}/shard{shard}of{shards}.jsonl"
    threads: cpus("binarize_shard")
    resources:
        **needs("binarize_shard"),
    params:
        vocab=lambda w, input: folder(input.vocab),
        corpus=lambda w, input: folder(input.corpus),
        out=lambda w, output: folder(output[0]),
    shell:
        "knnlm binarize"
        " --vocab {params.vocab:q}"
        " --corpus {params.corpus:q}"
        " --shard {wildcards.shard:q}"
        " --shards {wildcards.shards:q}"
        " --out {params.out:q}"


rule binarize:
    input:
        token_shards,
        vocab=R + "/vocabs/{vocab}/meta.json",
        corpus=R + "/corpora/{corpus}/meta.json",
    output:
        artifact(TOKENS, *TOKEN_FILES),
    benchmark:
        R + "/benchmarks/binarize/{vocab}/{corpus}/all.jsonl"
    threads: cpus("binarize")
    resources:
        **needs("binarize"),
    params:
        vocab=lambda w, input: folder(input.vocab),
        corpus=lambda w, input: folder(input.corpus),
        parts=lambda w: ["--parts", *map(folder, token_shards(w))] if token_shards(w) else "",
        out=lambda w, output: folder(output[0]),
    shell:
        "knnlm binarize"
        " --vocab {params.vocab:q}"
        " --corpus {params.corpus:q}"
        " {params.parts:q}"
        " --out {params.out:q}"
