# Archives to corpora, vocabularies and tokens.

PREPARED = [name for name, corpus in STUDY["corpora"].items() if "sources" in corpus]
SUBSETS = [name for name, corpus in STUDY["corpora"].items() if "subset_of" in corpus]
OWN_TOKENS = [name for name, vocab in STUDY["vocabs"].items() if vocab["type"] == "pretrained"]
FETCHED = ("repository", "revision", "files")  # what says which dataset it is
DATASETS = [name for name, archive in CATALOGUE.items() if archive["kind"] == "huggingface"]


rule fetch:
    """Download an archive of text or of a model and check its digest."""
    output:
        DOWNLOADS / "{archive}",
    log:
        LOGS / "fetch/{archive}.log",
    benchmark:
        BENCHMARKS / "fetch/{archive}.jsonl"
    wildcard_constraints:
        archive=one_of([name for name in CATALOGUE if name not in DATASETS]),
    localrule: True
    params:
        catalogue=STUDY["archives"],
    shell:
        "knnlm fetch"
        " --archive {wildcards.archive:q}"
        " --catalogue {params.catalogue:q}"
        " --out {output:q}"
        " 2> {log:q}"


use rule fetch as fetch_dataset with:
    """Download the files of a dataset or a model to a folder and check their digests."""
    output:
        directory(DOWNLOADS / "{archive}"),
    wildcard_constraints:
        archive=one_of(DATASETS),
    localrule: True
    params:
        catalogue=STUDY["archives"],
        version=lambda wildcards: as_json([CATALOGUE[wildcards.archive].get(key) for key in FETCHED]),


rule prepare:
    """Turn archives or a folder of text into the documents of train, dev and test."""
    input:
        archives,
    output:
        artifact(CORPUS, *SPLIT_FILES),
    log:
        LOGS / "prepare/{corpus}.log",
    benchmark:
        BENCHMARKS / "prepare/{corpus}.jsonl"
    wildcard_constraints:
        corpus=one_of(PREPARED),
    threads: cpus("prepare")
    resources:
        **needs("prepare"),
    params:
        archives=archive_paths,
        sha256=archive_digests,
        settings=corpus_settings,
        texts=own_texts,
        out=output_folder(),
    shell:
        "knnlm prepare"
        " --archives {params.archives:q}"
        " --sha256 {params.sha256:q}"
        " --settings {params.settings:q}"
        " --out {params.out:q}"
        " 2> {log:q}"


rule subset:
    """Keep a random part of another corpus's training documents."""
    input:
        whole_corpus,
    output:
        artifact(CORPUS, *SPLIT_FILES),
    log:
        LOGS / "prepare/{corpus}.log",
    benchmark:
        BENCHMARKS / "prepare/{corpus}.jsonl"
    wildcard_constraints:
        corpus=one_of(SUBSETS),
    threads: cpus("subset")
    resources:
        **needs("subset"),
    params:
        corpus=input_folder(0),
        fraction=lambda wildcards: STUDY["corpora"][wildcards.corpus]["fraction"],
        seed=STUDY["seed"],
        out=output_folder(),
    shell:
        "knnlm subset"
        " --corpus {params.corpus:q}"
        " --fraction {params.fraction:q}"
        " --seed {params.seed:q}"
        " --out {params.out:q}"
        " 2> {log:q}"


rule vocab:
    """Choose the vocabulary from training text: words, or subwords of a tokenizer trained here."""
    input:
        corpora=vocab_corpora,
    output:
        artifact(VOCAB, "vocab.json"),
    log:
        LOGS / "vocab/{vocab}.log",
    benchmark:
        BENCHMARKS / "vocab/{vocab}.jsonl"
    wildcard_constraints:
        vocab=one_of([name for name in STUDY["vocabs"] if name not in OWN_TOKENS]),
    threads: cpus("vocab")
    resources:
        **needs("vocab"),
    params:
        corpora=input_folders("corpora"),
        settings=vocab_settings,
        words=own_words,
        out=output_folder(),
    shell:
        "knnlm build_vocab"
        " --corpora {params.corpora:q}"
        " --settings {params.settings:q}"
        " --out {params.out:q}"
        " 2> {log:q}"


rule pretrained_vocab:
    """Take the vocabulary of a pretrained model from its archive."""
    input:
        lambda wildcards: STUDY["vocabs"][wildcards.vocab]["origin"]["path"],
    output:
        artifact(VOCAB, "vocab.json"),
    log:
        LOGS / "vocab/{vocab}.log",
    benchmark:
        BENCHMARKS / "vocab/{vocab}.jsonl"
    wildcard_constraints:
        vocab=one_of(OWN_TOKENS),
    threads: cpus("vocab")
    resources:
        **needs("vocab"),
    params:
        settings=vocab_settings,
        sha256=lambda wildcards: STUDY["vocabs"][wildcards.vocab]["origin"]["sha256"],
        out=output_folder(),
    shell:
        "knnlm build_vocab"
        " --corpora"
        " --settings {params.settings:q}"
        " --sha256={params.sha256:q}"
        " --out {params.out:q}"
        " 2> {log:q}"


rule binarize_shard:
    """Encode one part of a large training text as tokens."""
    input:
        vocab=VOCAB / "meta.json",
        corpus=CORPUS / "meta.json",
    output:
        passing(artifact(TOKENS / SHARD, "train.npy", "train.documents.npy")),
    log:
        LOGS / "binarize/{vocab}/{corpus}" / f"{SHARD}.log",
    benchmark:
        BENCHMARKS / "binarize/{vocab}/{corpus}" / f"{SHARD}.jsonl"
    threads: cpus("binarize_shard")
    resources:
        **needs("binarize_shard"),
    params:
        vocab=input_folder("vocab"),
        corpus=input_folder("corpus"),
        out=output_folder(),
    shell:
        "knnlm binarize"
        " --vocab {params.vocab:q}"
        " --corpus {params.corpus:q}"
        " --shard {wildcards.shard:q}"
        " --shards {wildcards.shards:q}"
        " --out {params.out:q}"
        " 2> {log:q}"


rule binarize:
    """Encode train, dev and test as tokens, or join the parts of train that are encoded."""
    input:
        token_shards,
        vocab=VOCAB / "meta.json",
        corpus=CORPUS / "meta.json",
    output:
        artifact(TOKENS, *TOKEN_FILES),
    log:
        LOGS / "binarize/{vocab}/{corpus}/all.log",
    benchmark:
        BENCHMARKS / "binarize/{vocab}/{corpus}/all.jsonl"
    threads: cpus("binarize")
    resources:
        **needs("binarize"),
    params:
        vocab=input_folder("vocab"),
        corpus=input_folder("corpus"),
        parts=token_parts,
        out=output_folder(),
    shell:
        "knnlm binarize"
        " --vocab {params.vocab:q}"
        " --corpus {params.corpus:q}"
        " {params.parts:q}"
        " --out {params.out:q}"
        " 2> {log:q}"
