"""Arguments and options that several commands share, with the help people read."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

TraceSetArgument = Annotated[
    Path,
    typer.Argument(
        metavar="TRACESET",
        help="Folder of a FlashInfer-Bench trace set: definitions/, workloads/, solutions/, ...",
        show_default=False,
    ),
]
TraceSetsArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="TRACESET...",
        help="Folders of FlashInfer-Bench trace sets: definitions/, workloads/, solutions/, ...",
        show_default=False,
    ),
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        metavar="N",
        min=1,
        help="Most definitions worked on at once. Without it: 32 a device, and with the embedded "
        "model, which answers at once, as many as the devices can judge.",
        show_default=False,
    ),
]
DefinitionOption = Annotated[
    str, typer.Option("--definition", "-d", metavar="NAME", help="Definition to work on.")
]
DefinitionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--definition",
        "-d",
        metavar="NAME",
        help="Definition to work on; may be repeated. Without it: all of them.",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="'gpt-5', 'claude-opus-4-1', 'gemini-2.5-pro', a name your endpoint knows, "
        "'builtin:compiler', the embedded default that needs no key, 'offline', whose requests are "
        "answered elsewhere, or 'replay:RUN', which answers as in a stored run.",
        show_default=False,
    ),
]
LanguageOption = Annotated[
    str | None,
    typer.Option(
        "--language",
        "-l",
        metavar="LANGUAGE",
        help="triton, cuda, cpp or python. Without it: triton for a GPU, cpp for the CPU, python "
        "for the embedded model.",
        show_default=False,
    ),
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        metavar="NAME",
        help="H100, H200, B200, A100, V100, L40S, RTX4090 or CPU. Without it: the GPU of this "
        "machine, else the CPU.",
        show_default=False,
    ),
]
BaseUrlOption = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        metavar="URL",
        help="An OpenAI-compatible endpoint; BASE_URL in the environment does the same.",
        show_default=False,
    ),
]
DialectOption = Annotated[
    str | None,
    typer.Option(
        "--dialect",
        metavar="DIALECT",
        help="'chat' (Chat Completions) or 'responses', where the built-in table is wrong.",
        show_default=False,
    ),
]
EffortOption = Annotated[
    str | None,
    typer.Option(
        "--reasoning-effort",
        metavar="EFFORT",
        help="minimal, low, medium or high, for models that accept it.",
        show_default=False,
    ),
]
BaselinesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--baseline",
        "-b",
        metavar="NAME",
        help="What to compare with beside the reference: 'torch.compile', 'torch.compile "
        "max-autotune' (takes minutes), 'cuBLAS' (for a GEMM on a GPU), or a solution of the trace "
        "set by its name; may be repeated. Without it: torch.compile, and cuBLAS where there is "
        "one.",
        show_default=False,
    ),
]
IsolationOption = Annotated[
    str,
    typer.Option(
        "--isolation",
        metavar="LEVEL",
        help="'strict': kernels run behind namespaces, without network, under bounds. 'process': "
        "they can do what you can do; for machines where strict cannot be had.",
    ),
]
EvaluatorsOption = Annotated[
    str | None,
    typer.Option(
        "--evaluators",
        metavar="WHERE",
        help="Where kernels are judged: 'ray', on every matching GPU of the Ray cluster that this "
        "machine is in, or 'ray://HEAD:10001' of one that it is not in. Without it: on all "
        "matching GPUs of this machine.",
        show_default=False,
    ),
]
MaxUsdOption = Annotated[
    float | None,
    typer.Option(
        "--max-usd",
        metavar="USD",
        help="Ask for nothing further once so much was spent.",
        show_default=False,
    ),
]
MaxTokensOption = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        metavar="N",
        help="The same for tokens, prompt and completion together.",
        show_default=False,
    ),
]
MaxMinutesOption = Annotated[
    float | None,
    typer.Option(
        "--max-minutes",
        metavar="MIN",
        help="Begin nothing further after so long.",
        show_default=False,
    ),
]
MaxDeviceMinutesOption = Annotated[
    float | None,
    typer.Option(
        "--max-device-minutes",
        metavar="MIN",
        help="Begin nothing further once candidates were judged for so long.",
        show_default=False,
    ),
]
PriceOption = Annotated[
    str | None,
    typer.Option(
        "--price",
        metavar="PROMPT,COMPLETION",
        help="US dollars per million tokens, for a model whose price no table knows: '2.5,10'.",
        show_default=False,
    ),
]
BatchOption = Annotated[
    bool,
    typer.Option(
        "--batch",
        help="Hand all requests in at the provider's Batch API, at about half the price, and stop; "
        "answers come within a day, and `resume --all` goes on with them.",
    ),
]
StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="FILE",
        help="Where runs are kept, so that they can go on; KERNEL_GENERATOR_STORE in the "
        "environment does the same. Without it: in your folder for data.",
        show_default=False,
    ),
]
EstimateOption = Annotated[
    bool,
    typer.Option(
        "--estimate",
        help="Tell requests, tokens, cost and the judge's time that this would take, and stop: "
        "nothing is asked or judged, and no key is needed.",
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on stdout; all else goes to stderr."),
]
JsonEventsOption = Annotated[
    bool,
    typer.Option(
        "--json-events",
        help="Print each event as one line of JSON on stdout, as it happens; all else goes to "
        "stderr.",
    ),
]


def at_store(store: Path | None) -> str:
    """What a command to paste needs so that it finds the store that was named; else nothing."""
    return "" if store is None else f" --store {shlex.quote(str(store))}"
