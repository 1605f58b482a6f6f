# The files and parameters of each rule that follow from the study; most functions are of a job's wildcards.

# Corpora


def archives(wildcards):
    """The downloads that a corpus is made from; stops where a folder of the user's own text is missing."""
    sources = STUDY["corpora"][wildcards.corpus]["sources"]
    prepared = (RESULTS / "corpora" / wildcards.corpus / "meta.json").exists()
    for number, source in enumerate(sources):
        if not (workflow.dryrun or prepared or source_is_there(source)):
            where = f"corpora.{wildcards.corpus}.sources[{number}].path"
            sys.exit(f"error: {where}: {source['path']} is not there; fill it or name another")
    return [f"{DOWNLOADS}/{name}" for name in sorted({s["archive"] for s in sources if "archive" in s})]


def archive_paths(wildcards, input):
    """NAME=PATH for each archive."""
    return [f"{Path(path).name}={path}" for path in input]


def archive_digests(wildcards, input):
    """NAME=SHA256 for each archive whose digest the catalogue has."""
    names = [Path(path).name for path in input]
    return [f"{name}={CATALOGUE[name]['sha256']}" for name in names if CATALOGUE[name].get("sha256")]


def corpus_settings(wildcards):
    """How the corpus is prepared; the number of token shards is not part of it."""
    return as_json({"seed": STUDY["seed"]} | without(STUDY["corpora"][wildcards.corpus], "token_shards"))


def whole_corpus(wildcards):
    """The files of the corpus that this one is a part of."""
    return artifact(f"{RESULTS}/corpora/{STUDY['corpora'][wildcards.corpus]['subset_of']}", *SPLIT_FILES)


def own_texts(wildcards):
    """The contents of the corpus's folders and files of the user's own: a change of theirs makes it anew."""
    made = RESULTS / "corpora" / wildcards.corpus / "meta.json"
    paths = [source.get("path") for source in STUDY["corpora"][wildcards.corpus]["sources"]]
    return as_json([content(path, made, path) for path in paths if path])


def own_words(wildcards):
    """The content of the vocabulary's file, where it names one."""
    path = STUDY["vocabs"][wildcards.vocab].get("file")
    return content(path, RESULTS / "vocabs" / wildcards.vocab / "meta.json", "file") if path else ""


VOCAB_INPUTS = ("corpora", "archive", "path", "origin")


def vocab_corpora(wildcards):
    return [f"{RESULTS}/corpora/{corpus}/meta.json" for corpus in STUDY["vocabs"][wildcards.vocab]["corpora"]]


def vocab_settings(wildcards):
    """How the vocabulary is made; that of a pretrained model is read from the model's archive, or path."""
    entry = {name: value for name, value in STUDY["vocabs"][wildcards.vocab].items() if name not in VOCAB_INPUTS}
    if origin := STUDY["vocabs"][wildcards.vocab].get("origin"):
        entry |= {"file": origin["path"], "member": origin["member"]}
    return as_json({"seed": STUDY["seed"]} | entry)


def token_shards(wildcards):
    """The shards of train that jobs of their own encode; none where the corpus asks for one."""
    shards = STUDY["corpora"][wildcards.corpus].get("token_shards", 1)
    parts = [filled(TOKENS / SHARD, wildcards, shard=i, shards=shards) for i in range(shards) if shards > 1]
    return artifacts(parts, "train.npy", "train.documents.npy")


def token_parts(wildcards):
    """`--parts` with the folders of these shards, or nothing."""
    return ["--parts", *folders(token_shards(wildcards))] if token_shards(wildcards) else ""


# Models


def vocab_of(wildcards):
    return STUDY["models"][wildcards.model]["vocab"]


def vocab_file(wildcards):
    return f"{RESULTS}/vocabs/{vocab_of(wildcards)}/vocab.json"


def dictionary(wildcards):
    """The dict.txt that a fairseq checkpoint's vocabulary was made from."""
    return f"{RESULTS}/vocabs/{vocab_of(wildcards)}/dict.txt"


def checkpoint(wildcards):
    return STUDY["models"][wildcards.model]["checkpoint"]


def checkpoint_text(wildcards):
    """The text that an imported checkpoint is tried on, or none."""
    text = STUDY["models"][wildcards.model]["checkpoint_text"]
    return [] if text is None else [text]


def tried_text(wildcards):
    """`--text` with it, or nothing."""
    return ["--text", *text] if (text := checkpoint_text(wildcards)) else ""


def pretrained(name):
    """A function of the wildcards: what the study or the catalogue says of a pretrained model."""
    return lambda wildcards: STUDY["models"][wildcards.model]["pretrained"][name]


def own_taps(wildcards):
    """The places of key types that the study names itself."""
    return as_json(STUDY["models"][wildcards.model]["pretrained"]["taps"])


def initial(wildcards):
    """The pretrained model that training goes on from: one of the study's models if it is the same."""
    wanted = STUDY["models"][wildcards.model]
    for name in PRETRAINED:
        found = STUDY["models"][name]
        if all(found[key] == wanted[key] for key in ("pretrained", "vocab")):
            return filled(MODEL / "meta.json", {"model": name, "seed": found["seeds"][0]})
    return filled(INITIAL / "meta.json", wildcards)


def model_corpus(split):
    """A function of the wildcards: the tokens of a split of the corpus that the model is trained on."""
    return lambda w: f"{RESULTS}/tokens/{vocab_of(w)}/{STUDY['models'][w.model]['corpus']}/{split}.npy"


def train_tokens(corpus=None):
    """A function of the wildcards: the corpus's training tokens, in the model's vocabulary."""
    return lambda w: f"{RESULTS}/tokens/{vocab_of(w)}/{corpus or w.corpus}/train.npy"


def held_out_tokens(wildcards):
    """The tokens of dev and, where an output shows it, of test, in the model's vocabulary."""
    return wanted(f"{RESULTS}/tokens/{vocab_of(wildcards)}/{{corpus}}/{{split}}.npy", wildcards)


def keytypes_tokens(wildcards):
    """Likewise, for the keys of all other types."""
    shown = reported(lambda row: row["datastore"] and row["keytype"] in OTHERS)
    return [
        filled(path, wildcards)
        for path in splits(f"{RESULTS}/tokens/{vocab_of(wildcards)}/{{corpus}}/{{split}}.npy", shown)
    ]


def held_out_documents(wildcards):
    """The document boundaries of the split, in the model's vocabulary."""
    return documents(vocab_of(wildcards), wildcards.corpus, wildcards.split)


# Datastores


def training_keys(wildcards):
    """What an index is trained on: the stored keys, or a sample of those that are not stored."""
    if wildcards.datastore in STREAMED:
        return artifact(filled(DATASTORE_KEYS / "sample", wildcards), *KEY_FILES)
    shards = STUDY["datastores"][wildcards.datastore]["shards"]
    folders_of = [filled(DATASTORE_KEYS / SHARD, wildcards, shard=i, shards=shards) for i in range(shards)]
    return artifacts(folders_of, *KEY_FILES)


def indexes_of(datastore):
    """The indexes that the sheet's rows search this datastore with."""
    return searched_with(STUDY, datastore)


def neighbors_wanted(wildcards, keytype, seed):
    """The final neighbors that the sheet's rows want from these keys of the datastore that is extracted."""
    where = {"model": wildcards.model, "datastore": wildcards.corpus, "keytype": keytype}
    found = [row for row in rows(STUDY) if row["datastore"] and all(row[key] == value for key, value in where.items())]
    found = [row | {"seeds": [seed]} for row in found if int(seed) in row["seeds"]]
    return sorted({f"{row_neighbors(row, split)}/meta.json" for row in found for split in row["splits"]})


def passes_before(number):
    """A function of the wildcards: the neighbors by the key types of earlier passes, whose keys are then gone."""
    before = [keytype for keytypes in PASSES[:number] for keytype in keytypes] if KEEP_NEEDED else []
    return lambda w: [path for keytype in before for path in neighbors_wanted(w, keytype, w.seed)]


def seed_before(wildcards):
    """The neighbors by the further seed that is extracted before this one, likewise."""
    seeds = STUDY["models"][wildcards.model]["seeds"][1:]
    position = seeds.index(int(wildcards.seed)) if int(wildcards.seed) in seeds else 0
    return neighbors_wanted(wildcards, MAIN_KEYTYPE, seeds[position - 1]) if position else []


def searched_shards(wildcards):
    """What was found in each of the first so many shards."""
    shards = range(int(wildcards.first))
    found = splits(SEARCHED / SHARD, splits_wanted(STUDY, wildcards))
    return artifacts([filled(path, wildcards, shard=i) for path in found for i in shards], *SEARCHED_FILES)


def merged_neighbors(wildcards):
    """What was found in the first so many shards together."""
    return artifacts(wanted(SEARCHED / merged(wildcards.first, wildcards.shards), wildcards), *SEARCHED_FILES)


def shard_files(*names):
    """A function of the wildcards: files of the first so many shards of the datastore, each shard's meta.json first."""
    return lambda w: artifacts([filled(DATASTORE_KEYS / SHARD, w, shard=i) for i in range(int(w.first))], *names)


def scores_asked(where, first, split="dev"):
    """[distance, k, temperature] of each score that the sheet's rows ask of these neighbors; all are asked of dev."""
    names = ("model", "corpus", "datastore", "keytype", "index")
    return scores_needed(STUDY, split, **{name: where[name] for name in names}, shards=int(first))


def rerank_flags(wildcards):
    """GB of keys that the job holds in memory, and `--keep-index-distances` where a row asks for them."""
    asked = {distance for distance, _, _ in scores_asked(wildcards, wildcards.first)}
    kept = ["--keep-index-distances"] if asked - {"exact"} else []
    return ["--memory", str(FORMULAS.keys_held(wildcards)), *kept]


def final(where, first, shards):
    """The folder of the neighbors that the rows read: reranked if one of them asks for exact distances."""
    if any(distance == "exact" for distance, _, _ in scores_asked(where, first)):
        return f"exact/first{first}of{shards}"
    return "quantized/shard0of1" if int(shards) == 1 else f"quantized/first{first}of{shards}"


# Scores


def final_neighbors(wildcards):
    place = final(wildcards, wildcards.first, wildcards.shards)
    names = RERANKED_FILES if place.startswith("exact") else SEARCHED_FILES
    return artifacts(wanted(NEIGHBORS / place, wildcards), *names)


def knn_scores(wildcards):
    shown = splits_wanted(STUDY, wildcards)
    return [as_json(scores_asked(wildcards, wildcards.first, split)) for split in shown]


def row_scores(row, seed, split):
    """The files of a row's log-probabilities: {component: path}; of what dev chooses from, the folder of all."""
    base = f"{RESULTS}/logprobs/{row['corpus']}/{split}"
    run = f"{row['model']}/seed{seed}"
    paths = {"lm": f"{base}/lm/{run}/logprob.npy"}
    if row["datastore"]:
        searched = f"{run}/{row['datastore']}/{row['keytype']}/{row['index']}/first{row['shards']}of{row['of']}"
        tried = f"{base}/knn/{searched}"
        one = "" if row["temperature"] == "tune" else f"{row['distance']}-k{row['k']}-t{row['temperature']:g}.npy"
        paths["knn"] = f"{tried}/{one}" if one else tried
    if row["cache"]:
        paths["cache"] = f"{base}/cache/{run}"
    if row["ngram"] == "infinite":
        paths["infinigram"] = f"{base}/infinigram/{row['vocab']}/{row['corpus']}/logprob.npy"
    elif row["ngram"]:
        paths["ngram"] = f"{base}/ngram/{row['vocab']}/order{row['ngram']}.npy"
    if row["memorizing"]:
        first = STUDY["models"][row["memorizing"]]["seeds"][0]
        paths["memorizing"] = f"{base}/lm/{row['memorizing']}/seed{first}/logprob.npy"
    return paths


def row_models(row):
    """The model's folder for each of the row's seeds."""
    return [filled(MODEL, {"model": row["model"], "seed": seed}) for seed in row["seeds"]]


def row_neighbors(row, split):
    """The folder of the neighbors of the row's first seed."""
    where = dict(row, seed=row["seeds"][0], split=split)
    return filled(NEIGHBORS / final(row, row["shards"], row["of"]), where)


def row_inputs(row):
    """Every file that a row is computed from; a folder of scores is named by its meta.json."""
    for split in row["splits"]:
        yield documents(row["vocab"], row["corpus"], split)
        for seed in row["seeds"]:
            for path in row_scores(row, seed, split).values():
                yield f"{folder(path) if path.endswith('.npy') else path}/meta.json"
    yield from (f"{model}/meta.json" for model in row_models(row))
    if row["datastore"]:
        yield f"{row_neighbors(row, 'dev')}/meta.json"


def experiment_inputs(wildcards):
    return sorted({path for row in STUDY["sheet"][wildcards.output] for path in row_inputs(row)})


def experiment_row(row):
    """What `interpolate` needs to know of a row: its settings and the paths of its scores, by split and seed."""
    scores = {split: [row_scores(row, seed, split) for seed in row["seeds"]] for split in row["splits"]}
    paths = {
        component: {split: [of_seed[component] for of_seed in found] for split, found in scores.items()}
        for component in scores["dev"][0]
    }
    settings = {key: row[key] for key in ("name", "label", "corpus", "model", "seeds", "ngram", "memorizing")}
    settings |= {"model_dirs": row_models(row), "lm": paths.pop("lm"), "components": paths, "datastore": None}
    if tokenizers_differ():
        settings["vocab"] = row["vocab"]
    if row["datastore"]:
        names = ("keytype", "index", "distance", "k", "temperature", "shards", "of")
        settings["datastore"] = {key: row[key] for key in names}
        settings["datastore"] |= {"corpus": row["datastore"], "neighbors": row_neighbors(row, "dev")}
        if row["temperature"] == "tune":
            settings["datastore"]["temperatures"] = temperatures(STUDY, row)
    return settings


def tokenizers_differ():
    """Whether tables need perplexities per word and bits per byte too.

    A model brings its own tokenizer, or one output has a corpus as tokens of two vocabularies.
    """
    texts = [{(row["vocab"], row["corpus"]) for row in output} for output in STUDY["sheet"].values()]
    several = any(len(found) > len({corpus for _, corpus in found}) for found in texts)
    return several or any(vocab.get("type") == "pretrained" for vocab in STUDY["vocabs"].values())


def experiment_rows(wildcards):
    return as_json([experiment_row(row) for row in STUDY["sheet"][wildcards.output]])


def experiment_documents(wildcards):
    """The document boundaries of each corpus that the rows are about: {corpus: {split: path}}.

    Where tokenizers differ, the corpus is named VOCAB/CORPUS.
    """
    texts = {(row["vocab"], row["corpus"]): row["splits"] for row in STUDY["sheet"][wildcards.output]}
    return as_json(
        {
            f"{vocab}/{corpus}" if tokenizers_differ() else corpus: {
                split: documents(vocab, corpus, split) for split in shown
            }
            for (vocab, corpus), shown in texts.items()
        }
    )


# Tables, figures and pages


def table_files(name):
    return [f"{RESULTS}/tables/{name}.{end}" for end in ("md", "tex", "csv")]


def figure_files(name):
    return [f"{RESULTS}/figures/{file}.{end}" for file in FIGURES[name] for end in ("pdf", "png", "svg", "csv")]


def in_report(path, caption, category, **labels):
    """A file of the results that Snakemake's own report shows too."""
    return report(f"{RESULTS}/{path}", caption=f"../report/{caption}", category=category, labels=labels)


def written_table(name, caption):
    """The files of a table, its CSV with a caption in Snakemake's report."""
    shown = in_report(f"tables/{name}.csv", caption, "Tables", table=name)
    return [*(path for path in table_files(name) if not path.endswith(".csv")), shown]


def drawn_figure(name):
    """The files of a figure, its PNGs with a caption in Snakemake's report."""
    shown = [in_report(f"figures/{file}.png", f"{file}.rst", "Figures", figure=file) for file in FIGURES[name]]
    return [*(path for path in figure_files(name) if not path.endswith(".png")), *shown]


def table_title(wildcards):
    """A table's title where the study has one; a study without a role in the paper is its own title."""
    return STUDY["titles"].get(wildcards.table, "" if PAPER else f"{STUDY['study']}: {wildcards.table}")


def reference_tables(wildcards):
    """The reference values that a run is compared with; stops before any job where the study has none."""
    if found := [str(path) for kind in ("tables", "figures") for path in sorted(REFERENCE.glob(f"{kind}/*.csv"))]:
        return found
    sys.exit(
        f"error: verify: {REFERENCE} has no tables/*.csv or figures/*.csv, so there is nothing to compare "
        f"{STUDY['study']} with; copy those of a run that you trust there"
    )


def curves_of(wildcards):
    """The training curves that stand beside the memorizing LM's table."""
    return CURVES if wildcards.table == "memorizing" else []


def report_models():
    """The description of one model for each row of the sheet."""
    return sorted({f"{row_models(row)[0]}/meta.json" for row in rows(STUDY)})


def report_corpora():
    """The description of each corpus that is no part of another and that a row's model or text is from."""
    used = {corpus for row in rows(STUDY) for corpus in (row["corpus"], STUDY["models"][row["model"]]["corpus"])}
    whole = {STUDY["corpora"][corpus].get("subset_of") or corpus for corpus in used}
    return sorted(f"{RESULTS}/corpora/{corpus}/meta.json" for corpus in whole)


def code_of(*files):
    """The library's files that a cheap rule runs; after an edit there the rule runs again."""
    return [f"knnlm/{file}" for file in files]
