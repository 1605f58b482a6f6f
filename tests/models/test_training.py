"""Training as a GPU wants it: few waits, gradients sent early; and as a cluster wants it: queued again at its limit."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from knnlm.artifacts import distributed, files, npy
from knnlm.artifacts.files import UserError
from knnlm.models import adaptive, train, windows
from knnlm.models.model import LanguageModel
from knnlm.settings import ModelConfig, TrainingSettings

ARCHITECTURE = dict(layers=2, dim=16, ffn_dim=32, heads=2, adaptive_cutoffs=[20, 41], dropout=0.1)
RECIPE = dict(lr=0.1, warmup=2, updates=12, tokens_per_update=64, tokens_per_batch=16, block=16, evaluate_every=4)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    rng = np.random.default_rng(0)
    for split, size in (("train", 700), ("dev", 64)):
        npy.save_array(folder / f"{split}.npy", rng.integers(2, 60, size).astype(np.uint16))
    files.write_json(folder / "vocab.json", {"size": 64})
    return folder


def trained(corpus, out, **recipe):
    """Train on `corpus`; the bytes of the model's weights."""
    paths = [corpus / name for name in ("train.npy", "dev.npy", "vocab.json")]
    train.main(train.TrainConfig(*paths, out, json.dumps(ARCHITECTURE), json.dumps(RECIPE | recipe)))
    return (out / "model.safetensors").read_bytes()


def begun(**recipe):
    """A training without any update, and its recipe."""
    settings = TrainingSettings(**(RECIPE | recipe))
    return train.begin(ModelConfig(vocab_size=64, **ARCHITECTURE), settings, seed=1), settings


class Waits(TorchDispatchMode):
    """Counts the numbers that the program asks a tensor for one by one, which on a GPU is a wait for each."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_an_update_waits_once_for_its_results_and_not_in_each_batch(corpus, monkeypatch):
    state, recipe = begun()
    transfers, real = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: (transfers.append(tensor), real(tensor))[1])
    with Waits() as waits:
        train.update(state, np.load(corpus / "train.npy"), recipe, 1)
    assert waits.count == 0 and len(transfers) == 1
    assert state.tokens == 64 and state.loss == pytest.approx(64 * transfers[0][0].item())


def test_the_order_of_blocks_is_drawn_once_an_epoch():
    windows._epoch_order.cache_clear()
    orders = [windows.training(1003, 10, 4, update, seed=5).start for update in range(60)]  # 101 blocks
    assert windows._epoch_order.cache_info().misses == 3
    epochs = np.concatenate(orders)[: 2 * 101].reshape(2, 101)
    np.testing.assert_array_equal(np.sort(epochs, 1), [np.arange(0, 1003, 10)] * 2)
    expected = [np.arange(0, 1003, 10)[np.random.default_rng([5, epoch]).permutation(101)] for epoch in range(2)]
    np.testing.assert_array_equal(epochs, expected)


def test_the_head_padded_for_tensor_cores_gives_the_same_log_probabilities_and_gradients(monkeypatch):
    lm, results = LanguageModel(ModelConfig(vocab_size=64, **ARCHITECTURE)).eval(), []
    torch.manual_seed(0)
    features, targets = torch.randn(50, 16), torch.randint(0, 64, (50,))
    shapes, real = [], torch.nn.functional.linear
    monkeypatch.setattr(adaptive.F, "linear", lambda x, w: (shapes.append(w.shape[0]), real(x, w))[1])
    for multiple in (1, 8):
        monkeypatch.setattr(adaptive, "_row_multiple", lambda _, multiple=multiple: multiple)
        lm.zero_grad()
        logprob = lm.target_logprob(features, targets)
        logprob.sum().backward()
        gradients = [p.grad for p in lm.softmax.parameters()] + [w.weight.grad for w in lm.embedding.words]
        results.append([logprob.detach(), lm.logprob(features).detach(), *gradients])
    assert 22 in shapes and 24 in shapes  # 20 words and 2 tails
    monkeypatch.undo()
    assert [adaptive._row_multiple(torch.device(name)) for name in ("cpu", "cuda")] == [1, 8]
    for plain, padded in zip(*results, strict=True):
        torch.testing.assert_close(padded, plain, rtol=1e-5, atol=1e-6)


@pytest.fixture
def sent(monkeypatch):
    """One process that believes it has company; what it sends, and how many gradients were complete at that time."""
    log = []

    class Work:
        def wait(self):
            log.append("waited")

    def all_reduce(tensor, async_op=False):
        log.append((tensor, sum(p.grad is not None for p in all_reduce.parameters)))
        return Work() if async_op else None

    monkeypatch.setattr(distributed.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.distributed, "all_reduce", all_reduce)
    return {"log": log, "all_reduce": all_reduce}


def test_gradients_are_sent_while_the_backward_pass_computes_others(sent):
    torch.manual_seed(0)
    lm = LanguageModel(ModelConfig(vocab_size=64, **ARCHITECTURE))
    parameters = sent["all_reduce"].parameters = list(lm.parameters())
    with distributed.summing_gradients(parameters):
        loss = -lm.target_logprob(lm(torch.randint(0, 20, (2, 8))).flatten(0, 1), torch.randint(0, 20, (16,))).sum()
        assert not sent["log"]
        loss.backward()
        early = list(sent["log"])
    log = [entry for entry in sent["log"] if entry != "waited"]
    assert len(log) == len(parameters) == sent["log"].count("waited")
    for (tensor, _), parameter in zip(log, reversed(parameters), strict=True):
        assert tensor is parameter.grad
    layers = sum(len(list(layer.parameters())) for layer in lm.layers)
    assert len(early) >= layers and early[0][1] < 5  # the last layer's went when few others were there
    assert log[-1][0].shape == lm.embedding.words[0].weight.shape
    assert not lm.embedding.words[2].weight.grad.any()  # no word of its band was in this batch


def test_a_process_without_a_batch_sends_zeros_in_the_same_order(sent):
    parameters = sent["all_reduce"].parameters = list(
        LanguageModel(ModelConfig(vocab_size=64, **ARCHITECTURE)).parameters()
    )
    with distributed.summing_gradients(parameters):
        pass
    log = [tensor for tensor, _ in filter(lambda entry: entry != "waited", sent["log"])]
    assert [tensor.shape for tensor in log] == [parameter.shape for parameter in reversed(parameters)]
    assert not any(tensor.any() for tensor in log)


@pytest.fixture
def determinism():
    """Whatever a test sets, the next one starts without."""
    before = os.environ.get("CUBLAS_WORKSPACE_CONFIG"), torch.backends.cudnn.deterministic
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = before[1]
    if before[0] is None:
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_a_deterministic_training_asks_torch_for_it_and_is_the_same_on_a_cpu(corpus, tmp_path, determinism):
    plain = trained(corpus, tmp_path / "plain")
    assert not torch.are_deterministic_algorithms_enabled()
    assert trained(corpus, tmp_path / "deterministic", deterministic=True) == plain
    assert torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def stopped(corpus, out, monkeypatch, after, **recipe):
    """A training that gets a SIGTERM after so many updates of its own; its error message."""
    real, done = train.update, []

    def update(*arguments):
        if len(done) == after - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        real(*arguments)
        done.append(1)

    with monkeypatch.context() as patch:
        patch.setattr(train, "update", update)
        with pytest.raises(UserError, match="stopped by SIGTERM") as error:
            trained(corpus, out, **recipe)
    return str(error.value)


def test_a_training_at_its_time_limit_is_queued_again_until_it_is_done(corpus, tmp_path, monkeypatch, slurm):
    whole, asked = trained(corpus, tmp_path / "whole"), slurm()
    for update in (5, 10):
        message = stopped(corpus, tmp_path / "model", monkeypatch, after=5)
        assert message == f"stopped by SIGTERM after update {update}: SLURM will run this job again, which then goes on"
    assert asked.read_text().splitlines() == ["show job 17", "requeue 17"] * 2
    assert trained(corpus, tmp_path / "model") == whole
    assert len(asked.read_text().splitlines()) == 4


def test_a_training_that_goes_on_needs_no_room_for_the_state_that_it_has(corpus, tmp_path, monkeypatch):
    needed = []
    monkeypatch.setattr(train.files, "check_room", lambda out, size: needed.append(size))
    stopped(corpus, tmp_path / "model", monkeypatch, after=5)
    kept = sum(path.stat().st_blocks * 512 for path in (tmp_path / ".model.resume").iterdir())
    trained(corpus, tmp_path / "model")
    assert 0 < kept == needed[0] - needed[1]


@pytest.mark.parametrize(
    "job",
    [{"state": "COMPLETING"}, {"state": "CANCELLED"}, {"minutes": 600}, {"refuses": True}],
    ids=["being cancelled", "cancelled", "stopped by hand", "not allowed"],
)
def test_a_training_that_is_stopped_otherwise_is_not_queued_again(corpus, tmp_path, monkeypatch, slurm, job):
    asked = slurm(**job)
    assert stopped(corpus, tmp_path / "model", monkeypatch, after=3).endswith("run again to go on")
    assert ("requeue 17" in asked.read_text()) == bool(job.get("refuses"))


def test_without_slurm_nothing_is_queued(corpus, tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert stopped(corpus, tmp_path / "a", monkeypatch, after=3).endswith("run again to go on")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("PATH", str(tmp_path))  # a node without scontrol
    assert stopped(corpus, tmp_path / "b", monkeypatch, after=3).endswith("run again to go on")


def test_the_seed_decides_the_first_weights_and_the_order_of_blocks(corpus, tmp_path, monkeypatch):
    drawn, cut = [], windows.training
    monkeypatch.setattr(windows, "training", lambda *given: drawn.append((given[-1], cut(*given))) or drawn[-1][1])
    paths = [corpus / name for name in ("train.npy", "dev.npy", "vocab.json")]
    for seed in (3, 4):
        settings = json.dumps(ARCHITECTURE), json.dumps(RECIPE | {"updates": 1, "warmup": 1})
        train.main(train.TrainConfig(*paths, tmp_path / str(seed), *settings, seed=seed))
    order = [np.random.default_rng([seed, 0]).permutation(44)[:4] * 16 for seed in (3, 4)]  # 44 blocks of 16 tokens
    assert [(seed, blocks.start.tolist()) for seed, blocks in drawn] == [
        (seed, starts.tolist()) for seed, starts in zip((3, 4), order, strict=True)
    ]
    weights = [{name: tensor.clone() for name, tensor in begun_with(seed).items()} for seed in (3, 4, 3)]
    for name in weights[0]:
        assert torch.equal(weights[0][name], weights[2][name])
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def begun_with(seed):
    """The first weights of a seed."""
    return train.begin(ModelConfig(vocab_size=64, **ARCHITECTURE), TrainingSettings(**RECIPE), seed).model.state_dict()


@pytest.mark.parametrize(("tokens_per_batch", "rows"), [(16, [1] * 4), (32, [2, 2]), (64, [4])])
def test_no_batch_has_more_tokens_than_are_asked_for(corpus, monkeypatch, tokens_per_batch, rows):
    state, recipe = begun(tokens_per_batch=tokens_per_batch)
    seen, real = [], train._backward_batch
    monkeypatch.setattr(train, "_backward_batch", lambda *given: (seen.append(len(given[2].start)), real(*given))[1])
    train.update(state, np.load(corpus / "train.npy"), recipe, seed=1)
    assert seen == rows


def test_processes_begin_with_equal_weights_and_draw_other_dropout(monkeypatch):
    drawn, weights = [], []
    for seed in (1, 2):
        for rank in (0, 1, 2):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            weights.append(begun_with(seed))
            drawn.append(torch.rand(4).tolist())
    assert len(set(map(tuple, drawn))) == 6
    for rank in (1, 2):
        assert all(torch.equal(weights[rank][name], weight) for name, weight in weights[0].items())


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_weights_that_are_kept_are_devs_best_or_the_last(corpus, keep, monkeypatch):
    """The second of three evaluations is the best."""
    state, recipe = begun(keep=keep)
    losses, kept = iter([3.0, 2.0, 2.5]), []

    def stream(*_, **__):
        return [type("Block", (), {"logprob": np.full(64, -next(losses))})]

    monkeypatch.setattr(train.features, "stream", stream)
    state.loss, state.tokens = 1.0, 1
    for number in range(3):
        with torch.no_grad():
            for parameter in state.model.parameters():
                parameter.fill_(number)
        state.loss, state.tokens = 1.0, 1
        train._evaluate(state, np.zeros(64, np.uint16), recipe, 700)
        kept.append({float(tensor.flatten()[0]) for tensor in state.kept.values() if tensor.is_floating_point()})
    assert kept == [{0.0}, {1.0}, {1.0 if keep == "best" else 2.0}]
    assert [point["dev_loss"] for point in state.curve] == [3.0, 2.0, 2.5]


@pytest.mark.parametrize("part", ["train", "dev"])
@pytest.mark.parametrize(("largest", "fits"), [(63, True), (64, False)])
def test_a_token_beyond_the_vocabulary_is_refused(corpus, tmp_path, part, largest, fits):
    tokens = np.load(corpus / f"{part}.npy").copy()
    tokens[-1] = largest
    np.save(tmp_path / "tokens.npy", tokens)
    given = tmp_path / "tokens.npy", corpus / "vocab.json", 64
    if fits:
        assert len(train._tokens(*given)) == len(tokens)
    else:
        with pytest.raises(UserError, match="token 64 is outside"):
            train._tokens(*given)
    assert train._tokens(*given[:2], 64, first=5).tolist() == tokens[:5].tolist()
