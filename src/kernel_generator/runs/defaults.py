"""What is worked with, as it was named or where nobody says: target, language, model and judge.

What does not go together is refused here, before anything is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_generator.domain.errors import InvalidInput, UnknownName
from kernel_generator.domain.target import TARGETS, find_target, target_of_device
from kernel_generator.domain.task import LANGUAGES
from kernel_generator.evaluation.devices import DevicePool
from kernel_generator.evaluation.judge import Limits
from kernel_generator.evaluation.places import judges_for
from kernel_generator.evaluation.processor import this_processor
from kernel_generator.evaluation.toolchain import gpu_name
from kernel_generator.models.builtin import BUILTIN_COMPILER
from kernel_generator.models.builtin import LANGUAGE as BUILTIN_LANGUAGE
from kernel_generator.models.offline import OFFLINE
from kernel_generator.models.settings import read_settings
from kernel_generator.runs.replay import REPLAY

if TYPE_CHECKING:
    from kernel_generator.domain.target import Target


def local_target() -> Target:
    """The target that this machine is: its first GPU where the table knows it, else the CPU."""
    gpu = gpu_name()
    known = target_of_device(gpu) if gpu else None
    return known or TARGETS["CPU"]


def resolve_target(name: str | None) -> Target:
    """The target of that name; None: what this machine is. The CPU's card is measured here.

    Raises `UnknownName`.
    """
    target = find_target(name) if name else local_target()
    return target if target.is_gpu else this_processor()


def resolve_language(language: str | None, target: Target, model: str) -> str:
    """The language of that name; None: what suits the target and the model.

    Raises `UnknownName`, and `InvalidInput` where the embedded model does not write it.
    """
    builtin = model == BUILTIN_COMPILER
    if language is None:
        if builtin:
            return BUILTIN_LANGUAGE
        return "triton" if target.is_gpu else "cpp"
    if language not in LANGUAGES:
        raise UnknownName("language", language, LANGUAGES)
    if builtin and language != BUILTIN_LANGUAGE:
        raise InvalidInput(
            f"'{BUILTIN_COMPILER}' writes {BUILTIN_LANGUAGE} (torch.compile), not {language}: "
            f"leave the language out, or name a language model and give its key"
        )
    return language


def default_model(api_key: str | None = None) -> str:
    """The embedded model, where nobody asked for another.

    Raises `InvalidInput` where a key is given and no model: keys are meant to be used.
    """
    if api_key or read_settings().llm_api_key is not None:
        raise InvalidInput(
            "a key is set (LLM_API_KEY or api_key) but no model is named: name one, 'gpt-5' for "
            f"example, or '{BUILTIN_COMPILER}' to do without"
        )
    return BUILTIN_COMPILER


def asks_a_provider(model: str) -> bool:
    """False for the names of what answers here, and of what is answered elsewhere."""
    return model != OFFLINE and not model.startswith(("builtin:", REPLAY))


def embedded_notice() -> str:
    """What to know where nobody named a model."""
    keys = read_settings().keys_set()
    how = (
        f"a key is set ({', '.join(keys)}): name one"
        if keys
        else "set LLM_API_KEY (in the environment or in .env) and name one"
    )
    return (
        f"no model was named: using the embedded '{BUILTIN_COMPILER}', which compiles the "
        f"reference with torch.compile. For a language model {how}, for example with "
        '--model gpt-5 or model_name="gpt-5"'
    )


def judge_of(
    target_gpu: str | None,
    isolation: str,
    limits: Limits | None = None,
    evaluators: str | None = None,
) -> DevicePool:
    """Who judges for a target; to be shared by all that work at once. `evaluators`: 'ray' or
    'ray://HEAD:PORT'; None: this machine.

    Raises `UnknownName`, and `InvalidInput` where the evaluators cannot be had.
    """
    target = find_target(target_gpu) if target_gpu is not None else local_target()
    return DevicePool(judges_for(evaluators, target, limits or Limits(), isolation))
