"""An exported model against Hugging Face's own reading of it: the same logits, nothing missing, the same tokens."""

import json

import pytest
import torch
import transformers
from trial_jobs import job, write_chain

from sweeper.model.shape import Shape, llama_config
from sweeper.model.transformer import build_model
from sweeper.runners.data.dataset import held_out_batches, open_data
from sweeper.runners.training.checkpoint import Checkpoints, parameters_of
from sweeper.runners.training.hf_export import export, export_finished
from sweeper.runners.training.optimizer import parametrization_for
from sweeper.runners.training.trial import run_job
from sweeper.values.errors import UsageError
from sweeper.values.records import Base

BASE = Base(n_layers=3, d_model=48, ffn_hidden=80)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    write_chain(folder)
    return folder


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("base", [None, BASE], ids=["standard", "completep"])
def test_the_exported_model_has_the_logits_of_ours(chain, tmp_path, tied, base):
    shape = {"n_layers": 2, "d_model": 64, "n_kv_heads": 2, "ffn_hidden": 96, "tie_embeddings": tied}
    run = job(chain, steps=12, eval_tokens=1024, shape=shape, optimizer={"base": base})
    checkpoints = Checkpoints(folder=tmp_path / "checkpoints")
    *_, outcome = run_job(run, checkpoints=checkpoints)
    ((seed, folder),) = export_finished(checkpoints, run.config, tmp_path / "hf")
    assert (seed, folder) == (0, tmp_path / "hf" / "s0")
    llama, loading = transformers.LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading

    ours = build_model(
        run.config.shape, seq_len=64, seed=9, device=torch.device("cpu"),
        parametrization=parametrization_for(run.config.shape, base),
    )  # fmt: skip
    trained = parameters_of(checkpoints.path(run))
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(trained[name])
        tokens = torch.randint(0, 16, (2, 64), generator=torch.Generator().manual_seed(1))
        logits = llama(tokens).logits
        torch.testing.assert_close(logits, ours(tokens), rtol=1e-4, atol=1e-5)
        assert logits.std() > 0.1
        dataset = open_data("chain", str(chain), 16)
        batches = held_out_batches(dataset, eval_tokens=1024, batch_size=16, seq_len=64, device="cpu")
        losses = [
            torch.nn.functional.cross_entropy(llama(inputs).logits.flatten(0, 1), targets.flatten())
            for inputs, targets in batches
        ]
    assert torch.stack(losses).mean().item() == pytest.approx(outcome.val_loss, abs=1e-4)
    assert llama.config.max_position_embeddings == 64
    assert sum(parameter.numel() for parameter in llama.parameters()) == run.config.shape.params.total


def test_the_tokenizer_of_the_text_goes_with_the_model(tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    for number in range(30):
        (text / f"{number}.txt").write_text("".join(f"line {i} of {number}: {i * number}\n" for i in range(300)))
    run = job(text, shape={"vocab_size": 320}, data="text", steps=2, eval_tokens=1024)
    checkpoints = Checkpoints(folder=tmp_path / "checkpoints")
    list(run_job(run, checkpoints=checkpoints))
    export(checkpoints.path(run), tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    dataset = open_data("text", str(text), 320)
    held = [int(token) for token in dataset.held_out[:60]]
    said = tokenizer.decode(held)
    assert "line 0 of" in said
    assert tokenizer(said)["input_ids"][:50] == held[:50]


def test_an_unfinished_training_is_not_exported(chain, tmp_path):
    run, checkpoints = job(chain, steps=30), Checkpoints(folder=tmp_path / "checkpoints", every=5)
    events = run_job(run, checkpoints=checkpoints)
    while next(events).tokens < 12 * 512:
        pass
    events.close()
    assert checkpoints.path(run).exists()
    assert export_finished(checkpoints, run.config, tmp_path / "hf") == []
    with pytest.raises(UsageError, match="no whole checkpoint"):
        export(tmp_path / "nothing.safetensors", tmp_path / "hf")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("n_layers", "d_model", "n_heads", "n_kv_heads", "ffn_hidden"), [(2, 96, 3, 1, 784), (30, 576, 9, 3, 1536)]
)
def test_the_llama_config_builds_a_model_of_the_same_count(tied, n_layers, d_model, n_heads, n_kv_heads, ffn_hidden):
    shape = Shape(
        n_layers=n_layers, d_model=d_model, n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=d_model // n_heads,
        ffn_hidden=ffn_hidden, vocab_size=4096, tie_embeddings=tied,
    )  # fmt: skip
    plain = json.loads(json.dumps(llama_config(shape, seq_len=256)))
    with torch.device("meta"):
        llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**plain))
    assert sum(parameter.numel() for parameter in llama.parameters()) == shape.params.total
    assert llama.config.head_dim == shape.head_dim
