# What all rules share: the study, its environment, the paths of its artifacts, and small functions.

import json
import os
import re
import sys
from pathlib import Path

import yaml

sys.path[:0] = [str(Path(workflow.basedir) / "workflow"), workflow.basedir]
from knnlm.settings import HELD_OUT as SPLITS
from knnlm.settings import MAIN_KEYTYPE
from contents import content
from machines import Machines, lift_limit_of_cores
from references import source_is_there
from resources import Formulas, directives
from study import (
    StudyError,
    example,
    largest_sample,
    load,
    other_keytypes,
    rows,
    scores_needed,
    searched_with,
    splits_wanted,
    temperatures,
    used_by,
)
from summary import summary

try:
    STUDY = load(config, workflow.configfiles)
    FORMULAS = Formulas(STUDY)
except StudyError as error:
    sys.exit(f"error: {error}")

lift_limit_of_cores(workflow)
MACHINES = Machines(workflow)
CATALOGUE = yaml.safe_load(Path(STUDY["archives"]).read_text(encoding="utf-8"))

# glibc gives freed blocks of this size back to the system by default; keeping them speeds up training by a third.
for name, size in (("MMAP_THRESHOLD_", 1 << 32), ("TRIM_THRESHOLD_", 1 << 32), ("TOP_PAD_", 1 << 28)):
    os.environ.setdefault(f"MALLOC_{name}", str(size))
# Snakemake gives each job as many threads as its rule has (OMP_NUM_THREADS and the like). Threads of OpenMP that wait
# for one another would keep their cores busy, and slow down every other job of the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("PYTHONPATH", workflow.basedir)
# Jobs find the `knnlm` and `python3` that stand beside the running Snakemake, even in an environment not activated.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]))

DOWNLOADS = Path(STUDY["downloads"])
RESULTS = Path(STUDY["results"]) / STUDY["study"]
LOGS = RESULTS / "logs"
BENCHMARKS = RESULTS / "benchmarks"
CORPUS = RESULTS / "corpora/{corpus}"
VOCAB = RESULTS / "vocabs/{vocab}"
TOKENS = RESULTS / "tokens/{vocab}/{corpus}"
MODEL = RESULTS / "models/{model}/seed{seed}"
INITIAL = RESULTS / "initial/{model}"
SHARD = "shard{shard}of{shards}"
KEYS = RESULTS / "keys/{model}/seed{seed}/{corpus}/train/{keytype}"
DATASTORE_KEYS = RESULTS / "keys/{model}/seed{seed}/{datastore}/train/{keytype}"
QUERIES = RESULTS / "keys/{model}/seed{seed}/{corpus}/{split}/{keytype}/shard0of1"
INDEX = RESULTS / "indexes/{model}/seed{seed}/{datastore}/{keytype}/{index}"
SEARCHED = RESULTS / "searched/{model}/seed{seed}/{corpus}/{split}/{datastore}/{keytype}/{index}"
NEIGHBORS = RESULTS / "neighbors/{model}/seed{seed}/{corpus}/{split}/{datastore}/{keytype}/{index}"
LOGPROBS = RESULTS / "logprobs/{corpus}/{split}"
EXPERIMENT = RESULTS / "experiments/{output}.json"

SPLIT_FILES = [f"{split}{end}" for split in ("train", *SPLITS) for end in (".txt", ".documents.jsonl")]
TOKEN_FILES = [f"{split}{end}" for split in ("train", *SPLITS) for end in (".npy", ".documents.npy")]
MODEL_FILES = ("config.json", "model.safetensors", "curve.jsonl")
KEY_FILES = ("keys.npy", "values.npy", "ids.npy")
SEARCHED_FILES = ("rows.npy", "distances.npy")
RERANKED_FILES = ("rows.npy", "exact.npy")

# Jobs of which an output shows test, as their wildcards; the others are of dev alone.
TESTED = [job for row in rows(STUDY) if "test" in row["splits"] for job in used_by(row)]
EXAMPLE = example(STUDY)
# With `keep: needed`, keys and indexes of the other key types and of further seeds are deleted once they are searched,
# and neighbors once they are scored but for those that the examples and the explorer show.
KEEP_NEEDED = STUDY["keep"] == "needed"
FIRST_SEEDS = sorted({str(model["seeds"][0]) for model in STUDY["models"].values()})
# What examples and explorer show stays: its key type beside the main one, and its model's datastore if that is streamed.
SHOWN_KEYTYPES = sorted({MAIN_KEYTYPE, *([EXAMPLE["keytype"]] if EXAMPLE else [])})
SHOWN_DATASTORE, SHOWN_MODEL = (EXAMPLE["datastore"], EXAMPLE["model"]) if EXAMPLE else (None, None)
KEPT = {"keytype": "|".join(SHOWN_KEYTYPES), "seed": "|".join(FIRST_SEEDS)} if KEEP_NEEDED else {}
SHOWN_LATER = [used_by(EXAMPLE)[0] | {"seed": EXAMPLE["seeds"][0]}] if EXAMPLE else []
KEPT_NEIGHBORS = SHOWN_LATER if KEEP_NEEDED else TESTED
OTHERS = other_keytypes(STUDY)
TOGETHER = FORMULAS.keytypes_together()
PASSES = [OTHERS[i : i + TOGETHER] for i in range(0, len(OTHERS), TOGETHER)]  # key types extracted by one job each


wildcard_constraints:
    model="|".join(STUDY["models"]),
    corpus="|".join(STUDY["corpora"]),
    text="|".join(STUDY["corpora"]),
    datastore="|".join(STUDY["datastores"]) or "none",
    vocab="|".join(STUDY["vocabs"]),
    index="|".join(STUDY["indexes"]),
    keytype="[a-z_]+(-second_last)?",
    split="train|dev|test",
    seed=r"\d+",
    shard=r"\d+",
    shards=r"\d+",
    first=r"\d+",


def one_of(names):
    """A wildcard's constraint; one that nothing meets where there are no names."""
    return "|".join(names) or "none"


def as_json(settings):
    """One parameter, whatever the number of keys: Snakemake compares parameters as a set of values."""
    return json.dumps(settings, sort_keys=True)


def without(settings, name):
    """The settings but for one key."""
    return {key: value for key, value in settings.items() if key != name}


# Paths.


def passing(paths, shown=False):
    """Output files that `keep: needed` deletes as soon as no job needs them any more; descriptions stay.

    So do those that examples and explorer have `shown`.
    """
    if shown or not KEEP_NEEDED:
        return paths
    return [path if path.endswith("meta.json") else temp(path) for path in paths]


def folder(path):
    """The folder that holds a file."""
    return str(Path(path).parent)


def folders(paths):
    """The artifact folders whose meta.json files are among the paths."""
    return [folder(path) for path in paths if path.endswith("meta.json")]


def artifact(directory, *names):
    """The declared files of an artifact directory, its meta.json first."""
    return [f"{directory}/{name}" for name in ("meta.json", *names)]


def artifacts(directories, *names):
    """The declared files of several artifact directories with the same files."""
    return [path for directory in directories for path in artifact(directory, *names)]


def of_keytype(pattern, keytype):
    """The pattern with its key type filled in."""
    return str(pattern).replace("{keytype}", keytype)


def splits(pattern, wanted=SPLITS):
    """One path for dev and one for test: jobs that take seconds do both."""
    return [str(pattern).replace("{split}", split) for split in wanted]


def wanted(pattern, wildcards):
    """The paths of dev and, where an output shows it, of test, with their wildcards filled in."""
    return [filled(path, wildcards) for path in splits(pattern, splits_wanted(STUDY, wildcards))]


def only(pattern, among=None, but=()):
    """The pattern of a folder, constrained to those of jobs like one of `among` and like none of `but`.

    A constraint of Snakemake is of one wildcard: that of the first one here looks ahead at the rest of the path.
    """
    name, end = re.search(r"\{(\w+)\}", str(pattern)).group(1), f"{pattern}/"
    rest, free = end[end.index("{") :], {"seed": r"\d+", "shard": r"\d+"}

    def paths(jobs):
        names = set(re.findall(r"\{(\w+)\}", rest)) - free.keys()
        fitting = [
            free | {key: re.escape(str(value)) for key, value in job.items()} for job in jobs if names <= set(job)
        ]
        return "|".join(sorted({rest.format(**job) for job in fitting})) or "(?!)"

    constraint = f"(?!{paths(but)})[^/]+" if among is None else f"(?={paths(among)})(?!{paths(but)})[^/]+"
    return str(pattern).replace(f"{{{name}}}", f"{{{name},{constraint}}}", 1)


def tested(pattern, **others):
    """The folders of dev and test, of jobs of which an output shows test."""
    return [only(path, TESTED, **others) for path in splits(pattern)]


def kept(pattern):
    """Those of them that `keep: needed` does not delete once they are scored."""
    return [only(path, KEPT_NEIGHBORS) for path in splits(pattern)]


def dev_alone(pattern):
    """The folder of dev, of jobs of which no output shows test."""
    return [only(path, but=TESTED) for path in splits(pattern, ["dev"])]


def reported(kept):
    """Dev and, if an output shows test of one of the rows that are kept, test."""
    shown = {split for row in rows(STUDY) if kept(row) for split in row["splits"]}
    return [split for split in SPLITS if split in {"dev", *shown}]


def of_datastore(pattern, datastore):
    """The pattern with its datastore filled in."""
    return str(pattern).replace("{datastore}", datastore)


def queries(*keytypes):
    """The folders of dev's keys of these types, and of test's if an output shows test of one of them."""
    shown = reported(lambda row: row["datastore"] and row["keytype"] in keytypes)
    return [of_keytype(path, keytype) for path in splits(QUERIES, shown) for keytype in keytypes]


def wanted_queries(*names):
    """A function of the wildcards: these files of the queries of dev and, where an output shows it, of test."""
    return lambda wildcards: artifacts(wanted(QUERIES, wildcards), *names)


def datastore_keys(*keytypes):
    """The folders of a shard's keys of these types."""
    return [of_keytype(KEYS / SHARD, keytype) for keytype in keytypes]


def filled(pattern, wildcards, **others):
    """The path of a pattern with its wildcards replaced by their values."""
    return str(pattern).format(**dict(wildcards) | others)


def merged(first, shards):
    """The folder of what was found in the first so many shards; one shard needs no merge."""
    return f"shard0of{shards}" if int(first) == 1 else f"first{first}of{shards}"


def documents(vocab, corpus, split):
    """The file of the split's document boundaries."""
    return f"{RESULTS}/tokens/{vocab}/{corpus}/{split}.documents.npy"


def command(*parts):
    """A shell command that several rules share, with the flags of one of them."""
    return " ".join(parts)


# Resources: what stands after `threads:` and `resources:`.


def cpus(formula, fixed=None):
    """The cores of a job, by the formula in workflow/resources.py; `fixed` adds to its wildcards."""
    return lambda wildcards: getattr(FORMULAS, formula)(dict(wildcards) | (fixed or {})).cpus


def needs(formula, fixed=None, **others):
    """Memory, time, disk and GPUs of a job, by the formula in workflow/resources.py, and other resources."""
    return directives(FORMULAS, formula, fixed or {}, MACHINES) | others


# Parameters: each function below returns a function that Snakemake calls for each job.


def input_folder(name):
    """The artifact folder of the input file of this name."""
    return lambda wildcards, input: folder(input[name])


def input_folders(name):
    """The artifact folders of the inputs of this name."""
    return lambda wildcards, input: folders(input[name])


def output_folder():
    """The folder of the first output file."""
    return lambda wildcards, output: folder(output[0])


def output_folders(name=None):
    """The artifact folders of all outputs, or of those of this name."""
    return lambda wildcards, output: folders(output[name] if name else output)


def output_keytypes(wildcards, output):
    """The key types of all outputs. A function of these: what is left needs no new job where a row of the sheet goes."""
    return list(dict.fromkeys(Path(path).parent.name for path in folders(output)))


def flags(*names):
    """The inputs of these names as a verb's flags, `--name path …`, without those that have no files."""

    def words(wildcards, input):
        return [word for name in names if input[name] for word in (f"--{name}", *input[name])] or ""

    return words


def model_setting(*keys):
    """One part of the model's settings as JSON: `windows`, `evaluation` is windows.evaluation."""

    def setting(wildcards):
        value = STUDY["models"][wildcards.model]
        for key in keys:
            value = value[key]
        return as_json(value)

    return setting


def precision_flag(wildcards):
    """`--precision` of the model's evaluation and extraction, or nothing where it is the default."""
    precision = STUDY["models"][wildcards.model]["precision"]
    return ["--precision", precision] if precision != "float32" else ""


def extraction_flags(wildcards):
    """`precision_flag`, and `--key-precision` where stored keys are not of the default."""
    stored = STUDY["datastores"].get(getattr(wildcards, "corpus", None), {}).get("key_precision", "float16")
    return [*precision_flag(wildcards), *(["--key-precision", stored] if stored != "float16" else [])] or ""


def index_settings(*names):
    """Some of the index's settings as JSON; a change to the others reruns nothing."""
    return lambda wildcards: as_json({name: STUDY["indexes"][wildcards.index][name] for name in names})


# Parameters that are functions themselves.


def study_folder(wildcards):
    return str(RESULTS)


def study_note(wildcards):
    """A function, because Snakemake would take braces in a plain text for wildcards."""
    return STUDY["note"]
