"""The embedded model: no key, no network. It proposes the reference compiled by `torch.compile`.

Its proposals are real solutions, judged like anyone's; it exists so that the whole product can be
tried, and so that a language model's kernels have something honest to be compared with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_generator.domain.compiled import CompileMode, compiled_sources
from kernel_generator.domain.conversation import Finish, Reply, Usage

if TYPE_CHECKING:
    from kernel_generator.domain.conversation import Request

BUILTIN_COMPILER = "builtin:compiler"
LANGUAGE = "python"
"""The only language it writes."""

# "reduce-overhead" and plain "max-autotune" replay CUDA graphs, whose outputs the next call
# overwrites: a caller that keeps an output would see it change.
# The last mode is for references that some release of torch generates no kernels for.
_LAST = CompileMode("default", backend="aot_eager")
_MODES = {
    "cpu": (
        CompileMode("default"),
        CompileMode("default", dynamic=True),
        CompileMode("default", dynamic=False),
        _LAST,
    ),
    "cuda": (
        CompileMode("default"),
        CompileMode("max-autotune-no-cudagraphs"),
        CompileMode("default", dynamic=True),
        _LAST,
    ),
}


class BuiltinCompiler:
    """A `LanguageModel` that needs no language."""

    @property
    def name(self) -> str:
        """'builtin:compiler'."""
        return BUILTIN_COMPILER

    async def ask(self, request: Request) -> Reply:
        """The next mode that applies to the target; `Finish.EXHAUSTED` after the last."""
        modes = _MODES[request.brief.target.kind]
        index = request.proposal.round - 1 + request.proposal.sample
        if index >= len(modes):
            return self._reply("", Finish.EXHAUSTED, f"all {len(modes)} modes were proposed")
        definition = request.brief.definition
        # A library's product would be copied on a GPU, where what is returned costs nothing.
        into = definition if request.brief.target.kind == "cpu" else None
        sources = compiled_sources(definition.reference, modes[index], into)
        files = "\n".join(
            f'<file path="{path}">\n{text.rstrip()}\n</file>' for path, text in sources.items()
        )
        return self._reply(f"{modes[index]} of the reference.\n\n{files}\n", Finish.COMPLETE)

    def _reply(self, text: str, finish: Finish, detail: str = "") -> Reply:
        return Reply(
            text=text,
            finish=finish,
            model=self.name,
            usage=Usage(),
            cost_usd=0.0,
            detail=detail,
        )

    async def close(self) -> None:
        """Nothing to close."""
