"""docs/guide_audit.md is what the command writes, and its counts are those of Hugging Face's Llama."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT / "benchmarks" / "guide"), str(ROOT / "benchmarks")]

import guide_audit  # noqa: E402

SAID = yaml.safe_load(guide_audit.CLAIMS.read_text())


@pytest.fixture(scope="module")
def page():
    return guide_audit.page(SAID)


def test_the_page_is_fresh(page):
    assert (ROOT / "docs" / "guide_audit.md").read_text() == page


def llama(claim, *, tied):
    """Parameters of the claim's configuration as Hugging Face builds it, with the guide's rule for the FFN."""
    from transformers import LlamaConfig, LlamaForCausalLM

    fields = {"d_model": 768, "n_heads": 12, "n_kv_heads": 4, **claim.flags}
    config = LlamaConfig(
        hidden_size=fields["d_model"], num_hidden_layers=fields["n_layers"], num_attention_heads=fields["n_heads"],
        num_key_value_heads=fields["n_kv_heads"],
        intermediate_size=fields.get("ffn_hidden", int(fields["d_model"] * 8 / 3)),
        vocab_size=32768, tie_word_embeddings=tied, attention_bias=False, mlp_bias=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
        model.tie_weights()
    return sum(p.numel() for p in model.parameters())


def test_counts_are_llamas():
    distinct = {claim.key: claim for claim in guide_audit.claimed(SAID) if claim.flags.get("d_model") not in (640, 896)}
    assert len(distinct) == 11
    for claim in distinct.values():
        for tied in (False, True):
            assert claim.shape(tied=tied).params.total == llama(claim, tied=tied), claim


@pytest.mark.parametrize(
    "finding",
    [
        'The "180M" configuration (L32 d768 f2048) has 251,708,160 parameters untied',
        "226,542,336 tied; 201,376,512 of them aren't embeddings",
        "`--d_model 640 --n_layers 32` can't run",
        "`--d_model 896 --n_layers 32` can't run",
        "FFN 2730 is no multiple of 16",
        "FFN 3413 is no multiple of 16",
        "L20 d768 f2304 is given several sizes: 140M (preset), 155M (Test Depth)",
        "it isn't within 200M",
        '"6.7M per layer" is 6,292,992 at d_model 768, 4 KV heads and FFN 2048 (-6.1%)',
    ],
)
def test_it_names(page, finding):
    assert finding in page


def test_a_guide_that_is_right_is_not_blamed():
    """Only figures that hold: no configuration is blamed, and none of the sentences comes up."""
    right = {"flags": {"n_layers": 32, "ffn_hidden": 2048}, "total": 226.5}
    current = {**right, "name": "Current Config", "non_embedding": 201.4}
    said = {
        **SAID, "presets": [current], "use_cases": [{**right, "name": "Best", "within": 230}], "table": [right],
        "experiments": [{"name": "Depth", "constant": "ffn_hidden", "configs": [right, right]}],
        "auto_ffn": [{"d_model": 768, "ffn_hidden": 2048}],
    }  # fmt: skip
    found = guide_audit.findings(said, list(guide_audit.claimed(said)))
    assert len(found) == 3, "what the first is, a layer, and how many hold"
    assert found[-1] == "Of 5 configurations with a count, 5 are within 5% of one."


def test_the_readme_says_how_many_hold(page):
    assert "Of 25 configurations with a count, 4 are within 5% of one." in page
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert "of the 25 configurations of one guide, four have the size it says" in readme
