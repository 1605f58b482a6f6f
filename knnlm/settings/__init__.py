"""Every setting of a study: its name, type, default and bounds, what it is for, and what it must agree with.

A study's YAML and the JSON that commands take are checked by these classes, and workflow/schemas is generated from
them. Nothing here imports torch, NumPy or another part of the library, so a dry run works without them.
"""

from knnlm.settings.base import Settings
from knnlm.settings.errors import Mistake, explain, nearest
from knnlm.settings.factory import Factory
from knnlm.settings.indexes import DISTANCES, METRICS, Datastore, Index, IndexSettings, RetrievalSettings
from knnlm.settings.models import (
    DATASTORE_WINDOW,
    EVALUATION_WINDOW,
    KEYTYPES,
    LAYER_KEYTYPES,
    MAIN_KEYTYPE,
    OTHER_KEYTYPES,
    SECOND_LAST,
    Architecture,
    Model,
    ModelConfig,
    ModelWindows,
    TrainingSettings,
    WindowSettings,
)
from knnlm.settings.sheet import (
    OUTPUTS,
    CacheSettings,
    ExamplesSettings,
    InterpolateSettings,
    MixtureSettings,
    NgramSettings,
    Row,
    Sheet,
)
from knnlm.settings.study import Study
from knnlm.settings.texts import (
    HELD_OUT,
    PADDED_TO,
    SPECIAL_TOKENS,
    SPLITS,
    TEXT_FOLDERS,
    Archive,
    Catalogue,
    Corpus,
    CorpusSettings,
    Source,
    Vocab,
    VocabSettings,
)

__all__ = [
    "DATASTORE_WINDOW",
    "DISTANCES",
    "EVALUATION_WINDOW",
    "HELD_OUT",
    "KEYTYPES",
    "LAYER_KEYTYPES",
    "MAIN_KEYTYPE",
    "METRICS",
    "OTHER_KEYTYPES",
    "OUTPUTS",
    "PADDED_TO",
    "SECOND_LAST",
    "SPECIAL_TOKENS",
    "SPLITS",
    "TEXT_FOLDERS",
    "Architecture",
    "Archive",
    "CacheSettings",
    "Catalogue",
    "Corpus",
    "CorpusSettings",
    "Datastore",
    "ExamplesSettings",
    "Factory",
    "Index",
    "IndexSettings",
    "InterpolateSettings",
    "Mistake",
    "MixtureSettings",
    "Model",
    "ModelConfig",
    "ModelWindows",
    "NgramSettings",
    "RetrievalSettings",
    "Row",
    "Settings",
    "Sheet",
    "Source",
    "Study",
    "TrainingSettings",
    "Vocab",
    "VocabSettings",
    "WindowSettings",
    "explain",
    "nearest",
]
