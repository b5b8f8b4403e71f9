"""The benchmark's decoder is a Llama: transformers' own gives the same scores from the same weights."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from workers.bench import build, llama  # noqa: E402

SHAPE = llama.TINY
PROMPT = torch.tensor([[3, 17, 250, 4, 99, 1, 42, 8]])


@pytest.fixture(scope="module")
def model():
    return build.random_model(lambda: llama.Decoder(SHAPE), torch.device("cpu")).float()


def table(length=32):
    return llama.turns(SHAPE, length, torch.device("cpu"), torch.float32)


def read(model, tokens):
    return model.logits(model.read(tokens, table(), model.cache(tokens.shape[0], tokens.shape[1])))


def theirs(model):
    config = transformers.LlamaConfig(
        vocab_size=SHAPE.vocabulary,
        hidden_size=SHAPE.hidden,
        intermediate_size=SHAPE.inner,
        num_hidden_layers=SHAPE.layers,
        num_attention_heads=SHAPE.heads,
        num_key_value_heads=SHAPE.cached_heads,
        rms_norm_eps=SHAPE.epsilon,
        rope_theta=SHAPE.theta,
        rope_parameters={"rope_type": "default", "rope_theta": SHAPE.theta},
        tie_word_embeddings=False,
    )
    other = transformers.LlamaForCausalLM(config).eval()
    state = {
        "model.embed_tokens.weight": model.embedding.weight,
        "model.norm.weight": model.norm.weight,
        "lm_head.weight": model.head.weight,
    }
    query, cached = SHAPE.heads * SHAPE.width, SHAPE.cached_heads * SHAPE.width
    for i, layer in enumerate(model.layers):
        at = f"model.layers.{i}."
        q, k, v = layer.qkv.weight.split([query, cached, cached])
        gate, up = layer.gate_up.weight.chunk(2)
        state |= {
            at + "self_attn.q_proj.weight": q,
            at + "self_attn.k_proj.weight": k,
            at + "self_attn.v_proj.weight": v,
            at + "self_attn.o_proj.weight": layer.out.weight,
            at + "mlp.gate_proj.weight": gate,
            at + "mlp.up_proj.weight": up,
            at + "mlp.down_proj.weight": layer.down.weight,
            at + "input_layernorm.weight": layer.attention_norm.weight,
            at + "post_attention_layernorm.weight": layer.mlp_norm.weight,
        }
    other.load_state_dict(state)
    return other


def test_prompts_are_scored_as_transformers_does(model):
    with torch.no_grad():
        torch.testing.assert_close(read(model, PROMPT), theirs(model)(PROMPT).logits, atol=1e-4, rtol=1e-4)


def test_steps_continue_what_was_read_whoever_shares_the_batch(model):
    """Two rows at different positions: each gets what reading its whole text at once gives."""
    rows = [PROMPT[0], PROMPT[0, :5].flip(0)]
    with torch.no_grad():
        cache = model.cache(2, 16)
        for row, tokens in enumerate(rows):
            own = [(keys[row : row + 1], values[row : row + 1]) for keys, values in cache]
            model.read(tokens[None, :-1], table(), own)
        last = torch.stack([tokens[-1] for tokens in rows])
        positions = torch.tensor([len(tokens) - 1 for tokens in rows])
        stepped = model.logits(model.step(last, positions, table(), cache))
        for row, tokens in enumerate(rows):
            torch.testing.assert_close(stepped[row], read(model, tokens[None])[0, -1], atol=1e-4, rtol=1e-4)


def test_work_is_counted_by_the_weights_there_are(model):
    matrices = sum(p.numel() for p in model.layers.parameters() if p.dim() > 1)
    assert SHAPE.layer_weights() == matrices
    keys, values = model.cache(1, 7)[0]
    assert SHAPE.cache_bytes(7) == SHAPE.layers * (keys.numel() + values.numel()) * 2
