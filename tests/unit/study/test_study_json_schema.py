"""The editor's schema takes what the loader takes, and refuses the plain mistakes."""

import textwrap
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from test_study_loader import DESIGN, SMALL
from test_study_malformed import FOLDER
from test_study_properties import GOOD, RESOLVED_BY_PROBES

from sweeper.study.loader import schema_json


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = schema_json()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize(
    "study", [yaml.safe_load(textwrap.dedent(t)) for t in (DESIGN, SMALL)] + [GOOD, RESOLVED_BY_PROBES]
)
def test_good_studies_are_valid(validator: jsonschema.Draft202012Validator, study: dict[str, Any]) -> None:
    assert [error.message for error in validator.iter_errors(study)] == []


MISTAKES = (
    *("misspelt_keys", "unknown_keys", "wrong_types", "wrong_numbers", "wrong_units", "wrong_choices", "betas"),
    *("unknown_axes", "axis_values", "missing_name_and_trial", "not_supported_yet", "too_many_devices"),
    *("ladder_values", "ladder_and_axis", "memory_and_minutes", "completep_base", "batch_scaling_of_nothing"),
    "reference_every",
)


@pytest.mark.parametrize("name", MISTAKES)
def test_plain_mistakes_are_not(validator: jsonschema.Draft202012Validator, name: str) -> None:
    text = Path(FOLDER / f"{name}.yaml").read_text()
    assert not validator.is_valid(yaml.safe_load(text))
