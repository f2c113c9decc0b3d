"""No input makes the loader fail in any way but its own, and what it resolves loads to the same study."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.study.loader import load
from sweeper.values.errors import Fault, StudyFaults, UsageError

GOOD: dict[str, Any] = {
    "name": "good",
    "question": "why",
    "base": "current",
    "model": {"vocab_size": 256, "d_model": 96, "head_dim": 32, "n_kv_heads": 1, "tie_embeddings": True},
    "axes": {
        "n_layers": [1, 2, 3],
        "ffn_hidden": {"solve": "params", "multiple_of": 16, "max": "1k"},
        "optimizer.lr": {"from": 1e-4, "to": 1e-2, "log": 3},
        "batch_size": {"from": 4, "to": 8, "step": 4},
    },
    "shapes": [{"preset": "gpt2-small"}, {"preset": "wide-shallow"}, {}],
    "budget": {"params": {"target": "0.5M", "tolerance": "2%", "count": "trunk"}},
    "trial": {
        "data": "python-stdlib",
        "tokens": "1M",
        "seq_len": 256,
        "tokens_per_step": 8192,
        "precision": "fp32",
        "compile": False,
        "optimizer": {"name": "adamw", "eps": 1e-8, "betas": [0.9, 0.99], "warmup": "4%"},
        "seeds": 3,
    },
    "search": {"method": "random", "trials": 4},
    "objectives": {"val_loss": "min", "tokens_per_s": "max"},
    "resources": {"gpus": 0, "cpus": 2, "reference_every": "off"},
    "profiles": {"cpu": {"trial": {"flops": "1T"}, "axes": {"n_layers": None}, "shapes": None}},
}
RESOLVED_BY_PROBES: dict[str, Any] = {
    "name": "probes",
    "model": {"n_layers": 2, "d_model": 64, "vocab_size": 256},
    "axes": {"tokens_per_step": ["4k", 8000], "optimizer.parametrization": ["standard", "completep"]},
    "budget": {"memory": "1.5GiB"},
    "trial": {
        "minutes": 2.5,
        "seq_len": 250,
        "batch_size": {"fastest": [1, 4, 16]},
        "precision": "auto",
        "fp8_backend": "transformer_engine",
        "fp8_filter": "none",
        "optimizer": {
            "lr": 1e-3,
            "base": {"n_layers": 4, "d_model": 128, "ffn_hidden": "1k", "tokens_per_step": "8k"},
            "batch_scaling": "none",
        },
    },
    "resources": {"allow_shared": True, "reference_every": "1.5h"},
    "profiles": {
        "cpu": {"trial": {"precision": "fp32", "batch_size": 8}, "axes": {"optimizer.parametrization": ["standard"]}},
        "muon": {
            "axes": {"optimizer.parametrization": None},
            "trial": {"optimizer": {"name": "muon", "momentum": 0.9}},
        },
    },
}
_PARTS = (GOOD, RESOLVED_BY_PROBES, *(s[k] for s in (GOOD, RESOLVED_BY_PROBES) for k in ("model", "axes", "trial")))
KEYS = sorted({key for part in _PARTS for key in part} | {"fastest", "base", "memory"})

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**18), 10**18),
    st.integers(-2, 70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["180M", "2%", "16GiB", "1e-4", "params", "fp8", "current", "random", "val_loss", "1e999k"]),
)
keys = st.one_of(st.sampled_from(KEYS), st.sampled_from(["from", "to", "step", "solve", "min"]), st.text(max_size=4))
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study") / "study.yaml"


def load_or_fault(file: Path, content: bytes, overrides: tuple[str, ...] = ()) -> None:
    """Loads `content`; only sweeper's own errors may come out, and every fault has a place and a message."""
    file.write_bytes(content)
    faults: tuple[Fault, ...] = ()
    try:
        loaded = load(file, overrides=overrides)
    except StudyFaults as error:
        faults = error.faults
    except UsageError as error:
        str(error).encode()
    else:
        file.write_text(yaml.safe_dump(dict(loaded.resolved), allow_unicode=True), encoding="utf-8")
        assert load(file, profile="full").study == loaded.study
    for fault in faults:
        assert fault.line >= 1
        assert fault.column >= 1
        assert fault.file in (str(file), "--set")
        assert fault.message
        str(fault).encode()


@pytest.mark.parametrize("study", [GOOD, RESOLVED_BY_PROBES], ids=lambda study: study["name"])
def test_the_studies_to_mutate_are_good(file: Path, study: dict[str, Any]) -> None:
    file.write_text(yaml.safe_dump(study), encoding="utf-8")
    assert load(file, has_gpu=True).profile == "full"
    assert load(file).profile == "cpu"


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=60))
def test_any_bytes(file: Path, content: bytes) -> None:
    load_or_fault(file, content)


TOKENS = (
    *("\n", "\n  ", ": ", "- ", "{", "}", "[", "]", ", ", "&a ", "*a", "!!int ", "!", "|\n", ">\n", "? ", "é"),
    *("'", '"', '"\\U', "FFFFFFFF", "\\uD800", "#", "---\n", "...\n", "%YAML 1.2\n", "<<", "~", "0x"),
)
yamlish = st.lists(
    st.one_of(
        st.sampled_from(TOKENS),
        keys,
        scalars.map(str),
    ),
    max_size=30,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(text=yamlish)
def test_anything_like_yaml(file: Path, text: str) -> None:
    load_or_fault(file, text.encode("utf-8", "surrogatepass"))
    load_or_fault(file, b"name: x\ntrial:\n  " + text.encode("utf-8", "surrogatepass"))


def paths_of(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [above, *(path for key, child in children for path in paths_of(child, (*above, key)))]


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """A good study after one to three deletions, replacements or insertions anywhere."""
    study = yaml.safe_load(yaml.safe_dump(draw(st.sampled_from([GOOD, RESOLVED_BY_PROBES]))))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(paths_of(study)))
        if not path:
            study[draw(keys)] = draw(values)
            continue
        parent = study
        for key in path[:-1]:
            parent = parent[key]
        match draw(st.sampled_from(["delete", "replace", "insert"])):
            case "delete":
                del parent[path[-1]]
            case "insert" if isinstance(parent, dict):
                parent[draw(keys)] = draw(values)
            case _:
                parent[path[-1]] = draw(values)
    return study


@settings(max_examples=300, deadline=None)
@given(study=mutated())
def test_mutations_of_a_good_study(file: Path, study: dict[str, Any]) -> None:
    load_or_fault(file, yaml.safe_dump(study, allow_unicode=True).encode("utf-8", "surrogatepass"))


@settings(max_examples=150, deadline=None)
@given(key=st.lists(keys, max_size=3).map(".".join), value=st.one_of(yamlish, scalars.map(str)))
def test_any_override(file: Path, key: str, value: str) -> None:
    content = yaml.safe_dump({key: part for key, part in GOOD.items() if key not in ("axes", "shapes")})
    load_or_fault(file, content.encode(), overrides=(f"{key}={value}", f"trial.{key}={value}", value))
