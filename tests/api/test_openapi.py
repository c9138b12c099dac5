"""What the OpenAPI document promises is what the service does: schemathesis asks and judges."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.api.conftest import Serve
from worker.api.security import SCOPES, add_token

EXAMPLES = 40


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_as_the_document_says(
    serve: Serve, tmp_path: Path, mode: GenerationMode
) -> None:
    token = add_token(tmp_path / "tokens.toml", "all", SCOPES)
    # The schema cannot say that a reading has a plausible time and at least one channel within
    # its range: such are refused with 422, which the document lists.
    is_negative = mode is GenerationMode.NEGATIVE
    excluded = [positive_data_acceptance]
    with serve(tokens_file=tmp_path / "tokens.toml") as url:
        document = schemathesis.openapi.from_url(f"{url}/openapi.json")
        asked = 0
        for found in document.get_all_operations():
            operation = found.ok()

            @settings(
                max_examples=EXAMPLES,
                derandomize=True,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: schemathesis.Case) -> None:
                nonlocal asked
                asked += 1
                case.call_and_validate(
                    headers={"Authorization": f"Bearer {token}"}, excluded_checks=excluded
                )

            with suppress(Unsatisfiable) if is_negative else nullcontext():
                ask()  # nothing can be wrong with a request that has no parts
    assert asked > EXAMPLES
