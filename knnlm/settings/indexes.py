"""Settings of datastores, their indexes, and retrieval."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from knnlm.settings.base import Distinct, Matching, Positive, Seed, Settings, disagreement
from knnlm.settings.factory import ALLOWED, AUTO, PATTERN, Factory, fitting

Metric = Literal["l2", "ip"]
METRICS: tuple[str, ...] = get_args(Metric)
Distance = Literal["exact", "quantized", "quantized_sqrt"]
DISTANCES: tuple[str, ...] = get_args(Distance)


KeyPrecision = Literal["float16", "float32"]
KEY_BYTES = {"float16": 2, "float32": 4}  # of one component
FactoryText = Annotated[str, Matching(f"{PATTERN}|{AUTO}", f"{ALLOWED}, or {AUTO}")]
FACTORY = f"FAISS factory string: Flat, SQfp16, IVF4096,PQ64x8, IVF1024,PQ64x4fs, …; {AUTO}: one that fits the entries"


class Datastore(Settings):
    """A corpus whose training tokens are stored with their keys."""

    shards: int = Field(1, ge=1, description="parts that are extracted, indexed and searched by jobs of their own")
    distance: Distance = Field("exact", description="of rows of the sheet that name none")
    key_precision: KeyPrecision = Field(
        "float16", description="of stored keys; float32 takes twice the disk and gives distances to the last digit"
    )
    store_keys: bool = Field(
        True,
        description="false: keys go from the forward pass straight into the index; distances are then quantized",
    )

    @model_validator(mode="after")
    def _keeps_what_it_describes(self) -> "Datastore":
        if not self.store_keys and self.key_precision != "float16":
            raise disagreement(
                "key_precision", "found float32 beside store_keys: false; allowed: with stored keys only"
            )
        return self


class IndexSettings(Settings):
    """How keys are indexed and searched; the defaults are the paper's."""

    factory: FactoryText = Field("IVF4096,PQ64x8", description=FACTORY)
    metric: Metric = Field("l2", description="l2 (squared L2 distance) or ip (inner product)")
    nprobe: int = Field(32, ge=1, description="lists visited for each query, at most the index's")
    sample: int = Field(1_000_000, ge=1, description="keys that the index is trained on")
    seed: Seed = Field(1, description="of the sample and of k-means")

    @property
    def parsed(self) -> Factory:
        """`auto` asks as little of keys and of other settings as an exact index."""
        return self.chosen(0, 1).parsed if self.factory == AUTO else Factory.parse(self.factory)

    def chosen(self, entries: int, dimension: int) -> "IndexSettings":
        """The same with a factory string for keys [entries, dimension], where it is `auto`."""
        if self.factory != AUTO:
            return self
        return self.model_copy(update={"factory": fitting(entries, dimension)})

    @model_validator(mode="after")
    def _fits_its_factory(self) -> "IndexSettings":
        lists, needed = self.parsed.lists, self.parsed.centroids
        if lists and "nprobe" in self.model_fields_set and self.nprobe > lists:
            raise disagreement(
                "nprobe", f"found {self.nprobe}, factory {self.factory} has {lists} lists; allowed: at most {lists}"
            )
        if self.sample < needed:
            raise disagreement(
                "sample",
                f"found {self.sample}, factory {self.factory} has {needed:,} centroids to train; "
                f"allowed: at least {needed}",
            )
        return self


class Index(IndexSettings):
    """An index of a study."""

    factory: FactoryText = Field(AUTO, description=FACTORY)


class RetrievalSettings(Settings):
    """What is kept of each search."""

    k: int = Field(1024, ge=1, le=2048, description="neighbors kept for each query")
    index: str | None = Field(
        None, description="the index of rows of the sheet that name none; by default the first of `indexes`"
    )
    temperatures: Distinct[Positive] = Field(
        (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
        min_length=1,
        description="tried on dev by rows of the sheet with `temperature: tune`; of equally good ones the first",
    )
