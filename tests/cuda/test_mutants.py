"""That the checks can fail: every planted mistake is found, by the level that its row names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cuda import gate, gxx
from tests.cuda.exercises import KERNELS, ROOT, TEST_KERNELS, cases_of
from tests.cuda.mutants import MUTANTS, Level, Mutant, caught_by, markdown

pytestmark = pytest.mark.skipif(gxx.available() is not None, reason=str(gxx.available()))

FILES = sorted({mutant.file for mutant in MUTANTS})
# Unchanged, all kernels that the same cases reach run in each of them, as does the backend: one file of them will do.
ALIKE = {(file if file.startswith(TEST_KERNELS) else Path(file).parent, *cases_of(file)): file for file in FILES}


@pytest.mark.parametrize("file", ALIKE.values())
def test_without_a_mistake_every_level_lets_a_file_pass(file: str) -> None:
    assert caught_by(file, (ROOT / file).read_text()) is None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_caught(mutant: Mutant) -> None:
    if mutant.caught_by == Level.GATE and (reason := gate.unavailable_reason()):
        pytest.skip(reason)
    caught = caught_by(mutant.file, mutant.text)
    assert caught is not None, "the mutant survives"
    level, message = caught
    assert level == mutant.caught_by, message


def test_every_cuda_file_has_mutants_and_every_level_catches_some() -> None:
    for folder in (KERNELS, TEST_KERNELS):
        assert {f"{folder}{path.name}" for path in (ROOT / folder).glob("*.cu")} <= {*FILES}
    assert {mutant.caught_by for mutant in MUTANTS} == {*Level}


def test_a_mutant_whose_text_is_gone_is_an_error() -> None:
    with pytest.raises(ValueError, match="'no such text' occurs 0 times"):
        _ = Mutant(FILES[0], "no such text", "", Level.RACE).text


def test_the_document_lists_every_mutant() -> None:
    assert markdown() in (ROOT / "docs" / "cuda_checks.md").read_text(), "see python -m tests.cuda.mutants"
