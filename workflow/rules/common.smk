import json
import os
import sys
from pathlib import Path

import yaml

sys.path[:0] = [str(Path(workflow.basedir) / "workflow"), workflow.basedir]
from knnlm.settings import HELD_OUT as SPLITS
from knnlm.settings import MAIN_KEYTYPE, OTHER_KEYTYPES
from references import source_is_there
from resources import Formulas, directives
from study import StudyError, load, rows, scores_needed

try:
    STUDY = load(config, workflow.configfiles)
except StudyError as error:
    sys.exit(f"error: {error}")

FORMULAS = Formulas(STUDY, len(OTHER_KEYTYPES))

# glibc gives freed blocks of this size back to the system by default; keeping them speeds up training by a third.
for name, bytes_ in (("MMAP_THRESHOLD_", 1 << 32), ("TRIM_THRESHOLD_", 1 << 32), ("TOP_PAD_", 1 << 28)):
    os.environ.setdefault(f"MALLOC_{name}", str(bytes_))
os.environ.setdefault("PYTHONPATH", workflow.basedir)
# The command `knnlm` beside the running Snakemake is used, whether or not its environment is activated.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

R = f"{STUDY['results']}/{STUDY['study']}"
TOKENS = R + "/tokens/{vocab}/{corpus}"
MODEL = R + "/models/{model}/seed{seed}"
KEYS = R + "/keys/{model}/seed{seed}/{corpus}/{split}/{keytype}"
QUERIES = KEYS + "/shard0of1"
INDEX = R + "/indexes/{model}/seed{seed}/{datastore}/{keytype}/{index}"
NEIGHBORS = R + "/neighbors/{model}/seed{seed}/{corpus}/{split}/{datastore}/{keytype}/{index}"
KEY_FILES = ("keys.npy", "values.npy", "ids.npy")
LOGPROBS = R + "/logprobs/{corpus}/{split}"


wildcard_constraints:
    model="|".join(STUDY["models"]),
    corpus="|".join(STUDY["corpora"]),
    datastore="|".join(STUDY["datastores"]) or "none",
    vocab="|".join(STUDY["vocabs"]),
    index="|".join(STUDY["indexes"]),
    keytype="[a-z_]+(-second_last)?",
    split="train|dev|test",
    seed=r"\d+",
    shard=r"\d+",
    shards=r"\d+",
    first=r"\d+",


def as_json(settings):
    """One parameter, whatever the number of keys: Snakemake compares parameters as a set of values."""
    return json.dumps(settings, sort_keys=True)


def without(settings, name):
    return {key: value for key, value in settings.items() if key != name}


def artifact(folder, *names):
    """The declared files of an artifact directory, its meta.json first."""
    return [f"{folder}/{name}" for name in ("meta.json", *names)]


def file_artifact(path):
    """The declared files of an artifact that is one file: itself first, then its description."""
    return [path, f"{path}.meta.json"]


def needs(rule, **fixed):
    """What stands after a rule's `resources:`."""
    return directives(FORMULAS, rule, fixed)


def cpus(rule, **fixed):
    return lambda wildcards: getattr(FORMULAS, rule)(dict(wildcards) | fixed).cpus


def splits(pattern):
    """One path for dev and one for test: jobs that take seconds score both."""
    return [pattern.replace("{split}", split) for split in SPLITS]


def of_keytype(pattern, keytype):
    return pattern.replace("{keytype}", keytype)


def folder(path):
    return str(Path(path).parent)


def folders(paths):
    return [folder(path) for path in paths if path.endswith("meta.json")]


def model_setting(key, *path):
    """A function of wildcards that gives one part of the model's settings as JSON."""

    def setting(wildcards):
        value = STUDY["models"][wildcards.model][key]
        for part in path:
            value = value[part]
        return as_json(value)

    return setting


def vocab_of(wildcards):
    return STUDY["models"][wildcards.model]["vocab"]


def tokens_of(wildcards, split):
    """The token file of a split in the vocabulary of the model."""
    return f"{R}/tokens/{vocab_of(wildcards)}/{wildcards.corpus}/{split}.npy"


def merged(first, shards):
    """The folder of the neighbors in the first so many shards; one shard needs no merge."""
    return "shard0of1" if int(shards) == 1 else f"first{first}of{shards}"


def documents(vocab, corpus, split):
    return f"{R}/tokens/{vocab}/{corpus}/{split}.documents.npy"
