"""What the OpenAPI document promises is what the service does: schemathesis asks and judges."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.api.conftest import whole_service
from worker.api.security import SCOPES, add_token
from worker.models.bundle import Bundle

EXAMPLES = 40
NEED_KAFKA = ("/ready", "/episodes/{episode_id}/acknowledgement")


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_as_the_document_says(
    bundle: Bundle, tmp_path: Path, mode: GenerationMode
) -> None:
    token = add_token(tmp_path / "tokens.toml", "all", SCOPES)
    # The schema cannot say that a reading has a plausible time and at least one channel within
    # its range: such are refused with 422, which the document lists.
    is_negative = mode is GenerationMode.NEGATIVE
    excluded = [positive_data_acceptance]
    with whole_service(bundle, tokens_file=tmp_path / "tokens.toml") as url:
        document = schemathesis.openapi.from_url(f"{url}/openapi.json")
        asked = 0
        for found in document.get_all_operations():
            operation = found.ok()
            if operation.path == "/live":  # it never ends; its own tests read it
                continue

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
                    headers={"Authorization": f"Bearer {token}"},
                    # Without a Kafka the service is not ready, and says so by 503.
                    excluded_checks=[*excluded, not_a_server_error]
                    if case.path in NEED_KAFKA
                    else excluded,
                )

            with suppress(Unsatisfiable) if is_negative else nullcontext():
                ask()  # nothing can be wrong with a request that has no parts
    assert asked > EXAMPLES
