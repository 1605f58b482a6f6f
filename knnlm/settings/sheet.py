"""Settings of scores: the continuous cache, n-gram models, mixtures, and the rows of an experiment sheet."""

from itertools import pairwise
from typing import Annotated, Literal, get_args

from pydantic import ConfigDict, Field, RootModel, model_validator

from knnlm.settings.base import (
    AsWritten,
    Distinct,
    Fraction,
    Listed,
    Matching,
    OrWord,
    Positive,
    Seed,
    Settings,
    Unique,
    disagreement,
)
from knnlm.settings.indexes import Distance
from knnlm.settings.models import KeyType
from knnlm.settings.texts import HELD_OUT

Output = Literal[
    "table1",
    "table2",
    "table3",
    "table4",
    "table5",
    "precision",
    "metric",
    "temperature",
    "memorizing",
    "figure2",
    "figure4",
    "figure5",
    "figure7",
]
OUTPUTS: tuple[str, ...] = get_args(Output)
SHOW_TEST = ("table1", "table2", "table3", "table4")
REPORTED = {output: HELD_OUT if output in SHOW_TEST else ("dev",) for output in OUTPUTS}
"""The splits that each output shows; rows of an output without test are not searched or scored there."""
OF_DATASTORE = ("keytype", "index", "fraction", "distance", "k", "temperature")
Weight = Annotated[float, Field(ge=0, le=1), AsWritten()]
Grid = Annotated[tuple[Weight, ...], Field(strict=False, min_length=2), Unique()]
Order = Annotated[int, Field(ge=2, le=7)]  # KenLM is built for orders up to 7


class CacheSettings(Settings):
    """The continuous cache's grid, tuned on dev."""

    sizes: Distinct[Annotated[int, Field(ge=1)]] = Field(
        (500, 1000, 2000, 3000), min_length=1, description="numbers of recent tokens"
    )
    thetas: Distinct[Positive] = Field(
        (0.05, 0.1, 0.2, 0.3, 0.5, 1.0), min_length=1, description="factors of the dot product"
    )


class NgramSettings(Settings):
    """The n-gram models."""

    orders: Distinct[Order] = Field((2, 3, 4, 5, 6, 7), min_length=1, description="a model of each order")


class MixtureSettings(Settings):
    """How mixture weights are tuned and intervals drawn."""

    lmbda: Grid | None = Field(
        None, description="grid of λ in rising order, for a first look and for curves; null: 0, 0.01, …, 1"
    )
    resamples: int = Field(1000, ge=10, description="bootstrap samples of documents, for the 95% intervals")

    @model_validator(mode="after")
    def _rises(self) -> "MixtureSettings":
        if any(high < low for low, high in pairwise(self.lmbda or ())):
            raise disagreement("lmbda", f"found {list(self.lmbda or ())}; allowed: rising numbers")
        return self


class InterpolateSettings(MixtureSettings):
    """The settings of `knnlm interpolate`."""

    seed: Seed = Field(1, description="of the resampling")


class ExamplesSettings(Settings):
    """The page of examples."""

    count: int = Field(8, ge=1, description="test contexts shown")


class Row(Settings):
    """One line of a table or one point of a plot: a language model, and what is mixed in."""

    name: Annotated[
        str,
        Matching(
            r"([A-Za-z0-9_.+-]|\{[mn]\}){1,80}",
            "at most 80 letters, digits, _ . + and -, {m} and {n} of a fraction",
        ),
    ] = Field(description="its name, unique in its table or figure")
    label: Annotated[str, Matching(r"[^\x00-\x1f\x7f]+", "one line of text")] = Field(
        description="what the table shows"
    )
    model: str = Field(description="the language model")
    corpus: str | None = Field(None, description="what is evaluated; by default the model's own corpus")
    seeds: Literal["first", "all"] = Field("first", description="which of the model's seeds")
    datastore: str | None = Field(None, description="the corpus whose datastore is searched; none: no kNN")
    keytype: KeyType | None = Field(None, description="the representation that is the key; by default ffn_input_ln")
    index: str | None = Field(None, description="by default retrieval.index")
    fraction: Fraction = Field(
        1, description="of the datastore's shards; {m} and {n} in name and label: shards used and in all"
    )
    distance: Distance | None = Field(None, description="by default the datastore's")
    k: int | None = Field(None, ge=1, description="neighbors used; by default retrieval.k")
    temperature: Annotated[Positive, OrWord("tune")] = Field(
        1,
        description="of the softmax over distances; the paper's equation 2 has none, which is 1; tune: the one of "
        "retrieval.temperatures that is best on dev together with the weights",
    )
    cache: bool = Field(False, description="mix in the continuous cache")
    ngram: Annotated[Order, OrWord("infinite")] | None = Field(
        None, description="mix in the n-gram model of this order; infinite: the ∞-gram of Liu et al. 2024"
    )
    memorizing: str | None = Field(None, description="mix in this second language model")

    @model_validator(mode="after")
    def _has_a_datastore(self) -> "Row":
        for key in OF_DATASTORE:
            if key in self.model_fields_set and self.datastore is None:
                raise disagreement("", f"key {key!r} needs 'datastore' beside it")
        return self


class Sheet(RootModel):
    """An experiment sheet: for each table or figure, its rows."""

    model_config = ConfigDict(strict=True, frozen=True, defer_build=True)
    root: dict[Output, Annotated[Listed[Row], Field(min_length=1)]] = Field(min_length=1)
