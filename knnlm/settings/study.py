"""The settings of a whole study, as its YAML has them."""

import os
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from knnlm.settings.base import Line, Name, PathText, Seed, Settings
from knnlm.settings.factory import AUTO
from knnlm.settings.indexes import Datastore, Index, RetrievalSettings
from knnlm.settings.models import Model
from knnlm.settings.sheet import CacheSettings, ExamplesSettings, MixtureSettings, NgramSettings, Output
from knnlm.settings.texts import Corpus, Vocab

Folder = Annotated[PathText, AfterValidator(os.path.normpath)]


class Study(Settings):
    """A study, from raw text to every table and figure."""

    study: Name = Field(description="the study's name and its folder under results")
    note: Line = Field("", description="a sentence printed above every table and figure")
    results: Folder = Field("results", description="folder of all studies' results")
    downloads: Folder = Field(
        "downloads", description="folder of fetched archives; fill it beforehand to work without a network"
    )
    experiments: PathText = Field("config/experiments/paper.yaml", description="the experiment sheet")
    titles: dict[Output, Line] = Field(
        default_factory=dict, description="titles of tables whose text is not the paper's, by name: table1, …"
    )
    paper: PathText | None = Field(
        "config/paper_numbers.yaml",
        description="the paper's numbers, titles and claims; null: the study has no role in the paper, and its tables "
        "and report show only its own",
    )
    published: PathText | None = Field(
        None, description="numbers of others that tables show in place of the paper's, as config/gpt2_numbers.yaml"
    )
    archives: PathText = Field("config/archives.yaml", description="the catalogue of archives")
    seed: Seed = Field(1, description="of splits, shards, samples and resampling")
    keep: Literal["all", "needed"] = Field(
        "needed", description="needed: large files that no later stage reads are deleted; all: nothing is"
    )
    keytypes_gb: Annotated[float, Field(gt=0)] = Field(
        8.0, description="with keep: needed, GB of keys of other key types that lie on disk together"
    )
    corpora: dict[Name, Corpus] = Field(min_length=1, description="text, by name")
    vocabs: dict[Name, Vocab] = Field(min_length=1, description="vocabularies, by name")
    models: dict[Name, Model] = Field(min_length=1, description="language models, by name")
    datastores: dict[Name, Datastore] = Field(
        description="corpora whose training tokens are stored; the key is the corpus"
    )
    indexes: dict[Name, Index] = Field(
        default_factory=lambda: {AUTO: Index(factory=AUTO)}, min_length=1, description="indexes, by name"
    )
    retrieval: RetrievalSettings = Field(default_factory=RetrievalSettings, description="what is kept of each search")
    cache: CacheSettings = Field(default_factory=CacheSettings, description="the continuous cache")
    ngram: NgramSettings = Field(default_factory=NgramSettings, description="n-gram models")
    mixture: MixtureSettings = Field(default_factory=MixtureSettings, description="tuning and intervals")
    examples: ExamplesSettings = Field(default_factory=ExamplesSettings, description="the page of examples")

    @property
    def index(self) -> str:
        """The name of the index of rows that name none."""
        return self.retrieval.index or next(iter(self.indexes))
