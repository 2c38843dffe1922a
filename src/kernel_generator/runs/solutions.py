"""Reads a solution from a file that a person names: FlashInfer-Bench JSON or plain source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashinfer_bench.data import (
    BuildSpec,
    Solution,
    SourceFile,
    SupportedBindings,
    SupportedLanguages,
)
from pydantic import ValidationError

from kernel_generator.domain.errors import InvalidInput, UnknownName
from kernel_generator.domain.task import LANGUAGES
from kernel_generator.prompts.conventions import CONVENTIONS
from kernel_generator.prompts.replies import destination_passing_style
from kernel_generator.runs.tracesets import first_error

if TYPE_CHECKING:
    from pathlib import Path

    from flashinfer_bench import Definition

_BY_SUFFIX = {".cu": "cuda", ".cpp": "cpp", ".cc": "cpp", ".cxx": "cpp", ".py": "python"}


def read_solution_file(
    path: Path, definition: Definition, language: str | None, target: str
) -> Solution:
    """The solution in a file.

    Raises `InvalidInput` where the file is missing, unreadable or for another definition.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot read the solution '{path}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the solution '{path}' is not UTF-8 text: {error.reason}") from error
    if not text.strip():
        raise InvalidInput(f"the solution '{path}' is empty")
    if path.suffix == ".json":
        return _from_json(path, text, definition)
    return _from_source(path, text, definition, language, target)


def _from_json(path: Path, text: str, definition: Definition) -> Solution:
    try:
        solution = Solution.model_validate_json(text)
    except ValidationError as error:
        raise InvalidInput(f"'{path}' is not a Solution: {first_error(error)}") from error
    if solution.definition != definition.name:
        raise InvalidInput(
            f"'{path}' solves '{solution.definition}', not '{definition.name}': "
            f"use -d {solution.definition}"
        )
    return solution


def _from_source(
    path: Path, text: str, definition: Definition, language: str | None, target: str
) -> Solution:
    if language is not None and language not in LANGUAGES:
        raise UnknownName("language", language, LANGUAGES)
    if language is None:
        language = _BY_SUFFIX.get(path.suffix)
        if language == "python" and "triton" in text:
            language = "triton"
    if language is None:
        raise InvalidInput(
            f"'{path}' has an ending that says nothing of its language: name it with --language, "
            f"or use one of {', '.join(_BY_SUFFIX)} or a Solution .json"
        )
    convention = CONVENTIONS[language]
    return Solution(
        name=f"{definition.name}_{path.stem}",
        definition=definition.name,
        author="file",
        spec=BuildSpec(
            language=SupportedLanguages(language),
            target_hardware=[target],
            entry_point=convention.entry_point,
            destination_passing_style=destination_passing_style(text, definition, language),
            binding=SupportedBindings(convention.binding) if convention.binding else None,
        ),
        sources=[SourceFile(path=convention.entry_file, content=text)],
    )
