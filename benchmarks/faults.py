"""A campaign at a provider that fails in every way it can: what is stored, counted and left behind.

    python benchmarks/faults.py [--requests 1000] [--seed 0] [--together 32]

Many runs at once, in one event loop, through the real `KernelGenerator`, engine, journal, store and
HTTP client, in both dialects, at a server on this machine that answers every request by a draw.
The replies are a SCRIPT, and the judge is a STUB that reads its verdict out of the kernel: nothing
is said of models or kernels. A run that the provider's trouble ended is resumed, twice at most.

Checked at the end against the server's own log: every run ended as its last answer says; each reply
that was completed is stored once, in its run and in order, and nothing else is; requests noted are
replies and one more for each run that stopped waiting; attempts by outcome, tokens and costs are
what the server gave; no task, thread, socket or file is left. Exits with 1 where one does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import re
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

# The server and the records are the tests', which are not installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from machine import machine_line, table

from kernel_generator import KernelGenerator
from kernel_generator.domain.budget import Price
from kernel_generator.domain.errors import NoPassingSolution, ProviderError, ProviderRefused
from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation.judge import Opened
from kernel_generator.models.endpoint_model import EndpointModel
from kernel_generator.models.pace import pace_of
from kernel_generator.models.protocol import Patience
from kernel_generator.runs.journal import known_runs
from kernel_generator.runs.spending import Spending
from kernel_generator.runs.store import Store
from tests import loopback as lb
from tests.models.asking import at
from tests.runs.sets import a_traceset, an_evaluation, python_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flashinfer_bench import Solution, TraceSet

    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.judge import Profile
    from kernel_generator.runs.journal import KnownRun

ROUNDS = 4
_RESUMED_AT_MOST = 2
_PRICE = Price(prompt=1.0, completion=10.0)
_TOKENS = lb.USAGE["prompt"] + lb.USAGE["completion"]
_USD = (lb.USAGE["prompt"] * _PRICE.prompt + lb.USAGE["completion"] * _PRICE.completion) / 1e6
PATIENCE = Patience(
    idle_s=1.0, answer_s=3.0, connect_s=10.0, max_retries=1, backoff_s=0.02, limited_s=30.0
)
_NAME = re.compile(r"faulty_\d{4}")
_NUMBER = re.compile(r"# reply (\d+),")


@dataclass(frozen=True)
class Answers:
    """The client takes it for a reply."""

    says: Callable[[str], lb.Behaviour]
    outcome: Outcome | None = None
    """None: what the kernel in the text says."""
    has_usage: bool = True


@dataclass(frozen=True)
class Fails:
    """It does not. `final`: asking again is pointless."""

    behaves: lb.Behaviour
    final: bool = False


Way: TypeAlias = "Answers | Fails"


def _error(code: str) -> lb.Behaviour:
    return lb.streams_an_error("planted", code)


USUAL = Answers(lb.says)
REPLIES: dict[str, Way] = {
    "no usage told": Answers(lambda text: lb.says(text, usage=False), has_usage=False),
    "empty": Answers(lambda _: lb.says_nothing(), Outcome.EMPTY_REPLY),
    "refusal": Answers(lambda _: lb.refuses(), Outcome.REFUSED_REPLY),
    "cut by length": Answers(lb.is_cut, Outcome.TRUNCATED_REPLY),
    "filtered": Answers(lb.is_filtered, Outcome.REFUSED_REPLY),
    "question filtered": Answers(
        lambda _: lb.fails(400, code="content_filter"), Outcome.REFUSED_REPLY, has_usage=False
    ),
    "not streamed": Answers(lb.answers_whole_though_asked_to_stream),
    "comments first": Answers(lambda text: lb.keeps_alive_for(3, lb.says(text))),
    "reset after the last word": Answers(lb.resets_after_the_last_word, has_usage=False),
}
PASSING: dict[str, Way] = {
    **{str(status): Fails(lb.fails(status)) for status in (408, 409, 429, 500, 502, 503, 529)},
    "silence": Fails(lb.stalls_before_answering()),
    "stall midway": Fails(lb.stalls_midway()),
    "comments for ever": Fails(lb.never_finishes()),
    "reset midway": Fails(lb.resets_midway()),
    "stream ends early": Fails(lb.ends_early()),
    "hang-up inside a chunk": Fails(lb.hangs_up_midway()),
    "garbage in a stream": Fails(lb.streams_garbage()),
    "server error in a stream": Fails(_error("server_error")),
    "rate limit in a stream": Fails(_error("rate_limit_exceeded")),
    "invalid JSON": Fails(lb.is_invalid_json()),
    "JSON of another shape": Fails(lb.is_other_json({"hello": "world"})),
}
FINAL: dict[str, Way] = {
    **{str(s): Fails(lb.fails(s), final=True) for s in (400, 401, 402, 403, 404, 413, 422)},
    "no quota": Fails(lb.fails(429, code="insufficient_quota"), final=True),
    "redirect": Fails(lb.redirects("http://127.0.0.1:9/v1"), final=True),
    "web page": Fails(lb.is_a_web_page(), final=True),
    "web page called JSON": Fails(lb.is_a_web_page("application/json"), final=True),
    "final error in a stream": Fails(_error("context_length_exceeded"), final=True),
}
_SHARES = ((35, {"usual": USUAL}), (25, REPLIES), (35, PASSING), (5, FINAL))
"""In per cent, and evenly within."""


@dataclass(frozen=True)
class Entry:
    """One request as the server saw it."""

    number: int
    kind: str
    way: Way
    outcome: Outcome | None
    """Of the attempt, where it was answered."""


class Provider:
    """Answers by a draw, and keeps a log by definition. Called by one thread at a time."""

    def __init__(self, seed: int) -> None:
        self.log: dict[str, list[Entry]] = defaultdict(list)
        self._chosen = random.Random(seed)

    def __call__(self, request: lb.Recorded) -> lb.Behaviour:
        """What becomes of one request."""
        [ways] = self._chosen.choices([w for _, w in _SHARES], [share for share, _ in _SHARES])
        kind = self._chosen.choice(sorted(ways))
        way, number = ways[kind], sum(map(len, self.log.values()))
        right = self._chosen.random() < 0.5
        outcome = None
        if isinstance(way, Answers):
            outcome = way.outcome or (Outcome.PASSED if right else Outcome.WRONG_VALUES)
        name = _NAME.search(request.prompt)
        assert name is not None, "a request names its definition"
        self.log[name[0]].append(Entry(number, kind, way, outcome))
        if isinstance(way, Fails):
            return way.behaves
        word = "right" if right else "wrong"
        return way.says(
            python_reply(f"# reply {number}, {word}\ndef run(x):\n    return x * 2 + 1")
        )

    @property
    def entries(self) -> list[Entry]:
        """All of them."""
        return [entry for entries in self.log.values() for entry in entries]


class StubJudge:
    """A judge and its session, whose verdict stands in the kernel. A stub: it measures nothing."""

    def __init__(self) -> None:
        self.opened = Opened()

    def open(self, task: Task) -> StubJudge:
        """Itself."""
        del task
        return self

    def prepare(self) -> None:
        """Nothing to prepare."""

    def evaluate(self, solution: Solution, profile: Profile) -> Evaluation:
        """At once."""
        del profile
        right = "right" in solution.sources[0].content
        return an_evaluation(Outcome.PASSED if right else Outcome.WRONG_VALUES, promoted=False)

    def close(self) -> None:
        """Nothing to close."""


@dataclass
class Campaign:
    """All runs, and how each of them ended."""

    traceset: TraceSet
    store: Path
    url: str
    spending: Spending = field(default_factory=lambda: Spending(price=_PRICE))
    ended: dict[str, str] = field(default_factory=dict[str, str])
    """By definition: 'solved', 'unsolved', 'refused' or 'unavailable'."""
    resumed: int = 0
    window: int = 0
    left: list[str] = field(default_factory=list[str])
    """Tasks that still ran when all had ended."""

    async def work(self, wanted: int, together: int, provider: Provider) -> None:
        """Runs until the provider was asked `wanted` times."""
        generators = [self._generator(dialect) for dialect in ("chat", "responses")]
        names = iter(sorted(self.traceset.definitions))

        async def worker(generator: KernelGenerator) -> None:
            while len(provider.entries) < wanted:
                await self._run(generator, next(names))

        await asyncio.gather(*(worker(generators[n % 2]) for n in range(together)))
        pace = pace_of(at(self.url))
        self.window = pace.window
        if pace.under_way or pace.waiting:
            self.left.append("places of the pace")
        for _ in range(10):  # a stream that was closed early ends in a task of its own
            await asyncio.sleep(0)
        self.left += [str(t) for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for generator in generators:
            close_store(generator)

    def _generator(self, dialect: str) -> KernelGenerator:
        model = EndpointModel(at(self.url, dialect=dialect), patience=PATIENCE)
        return KernelGenerator(
            model=model,
            language="python",
            target_gpu="CPU",
            store=self.store,
            budget=self.spending,
            judge=StubJudge(),
        )

    async def _run(self, generator: KernelGenerator, name: str) -> None:
        definition = self.traceset.definitions[name]
        run_id = None
        for resumed in range(1 + _RESUMED_AT_MOST):
            self.resumed += resumed > 0
            try:
                await generator.optimized_generate_async(
                    traceset=self.traceset,
                    definition=definition,
                    rounds=ROUNDS,
                    keep_improving=True,
                    run_id=run_id,
                )
            except NoPassingSolution:
                self.ended[name] = "unsolved"
                return
            except ProviderError as error:
                refused = isinstance(error, ProviderRefused)
                self.ended[name] = "refused" if refused else "unavailable"
                run_id = run_id or self._run_of(name)
            else:
                self.ended[name] = "solved"
                return

    def _run_of(self, name: str) -> str:
        store = Store(self.store)
        try:
            return next(r.run_id for r in store.runs() if r.settings["definition"] == name)
        finally:
            store.close()


def close_store(generator: KernelGenerator) -> None:
    """Let go of the file, which a generator keeps for as long as it lives."""
    assert generator._store is not None
    generator._store.close()


# -- what has to hold ------------------------------------------------------------------------------


def _ending(entries: Sequence[Entry]) -> str:
    """How a run ends that was answered so."""
    passed = any(entry.outcome is Outcome.PASSED for entry in entries)
    last = entries[-1].way
    if passed:
        return "solved"
    if isinstance(last, Answers):
        return "unsolved"
    return "refused" if last.final else "unavailable"


def check(campaign: Campaign, provider: Provider) -> list[str]:
    """What does not hold."""
    wrong: list[str] = []
    store = Store(campaign.store)
    runs, problems = known_runs(store)
    wrong += [str(problem) for problem in problems]
    by_name = {run.settings.definition: run for run in runs}
    if len(by_name) != len(runs) or by_name.keys() != campaign.ended.keys():
        wrong.append(f"{len(campaign.ended)} runs ended, {len(runs)} are stored")
    if by_name.keys() != provider.log.keys():
        wrong.append("the server was not asked for the runs that are stored")
    for name, run in by_name.items():
        told = [f"{name}: {words}" for words in _compare(run, store, provider.log[name])]
        if campaign.ended.get(name) != (expected := _ending(provider.log[name])):
            told.append(f"{name} ended as {campaign.ended.get(name)}, not as {expected}")
        wrong += told
    store.close()
    outcomes = Counter(a.outcome for run in runs for a in run.history.attempts)
    given = Counter(e.outcome for e in provider.entries if e.outcome is not None)
    if outcomes != given:
        wrong.append(f"outcomes {outcomes} stored, {given} given")
    paid = sum(isinstance(e.way, Answers) and e.way.has_usage for e in provider.entries)
    if campaign.spending.tokens != paid * _TOKENS:
        wrong.append(f"{campaign.spending.tokens} tokens counted, {paid * _TOKENS} given")
    if abs(campaign.spending.usd - paid * _USD) > 1e-9 * max(1, paid):
        wrong.append(f"${campaign.spending.usd} counted, ${paid * _USD} charged")
    stored = sum(run.history.usage.prompt + run.history.usage.completion for run in runs)
    if stored != paid * _TOKENS:
        wrong.append(f"{stored} tokens stored, {paid * _TOKENS} given")
    return wrong + [f"left behind: {what}" for what in campaign.left]


def _compare(run: KnownRun, store: Store, entries: Sequence[Entry]) -> list[str]:
    """How a stored run differs from what the server gave it."""
    answered = [entry for entry in entries if isinstance(entry.way, Answers)]
    kinds = Counter(event.kind for event in store.events(run.run_id))
    wrong: list[str] = []
    if kinds["replied"] != len(answered):
        wrong.append(f"{kinds['replied']} replies stored, {len(answered)} given")
    waits = isinstance(entries[-1].way, Fails)
    if kinds["asked"] != kinds["replied"] + waits:
        wrong.append(f"{kinds['asked']} requests noted for {kinds['replied']} replies")
    if [a.outcome for a in run.history.attempts] != [entry.outcome for entry in answered]:
        wrong.append("its outcomes are not those of what it was answered")
    for reply, entry in zip(run.history.replies, answered, strict=False):
        number = _NUMBER.search(reply.text)
        if number is not None and int(number[1]) != entry.number:
            wrong.append(f"reply {number[1]} stands where {entry.number} was given")
        if (reply.usage is not None) != (isinstance(entry.way, Answers) and entry.way.has_usage):
            wrong.append(f"the usage of reply {entry.number} is not what was told")
    return wrong


def held() -> dict[str, int]:
    """Threads, files and sockets of this process."""
    gc.collect()
    links = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    sockets = sum(link.startswith("socket:") for link in links)
    # Those of the pool that all runs of the process share stay, up to its size.
    own = [t for t in threading.enumerate() if not t.name.startswith("kernel-generator-run_")]
    return {"threads": len(own), "files": len(links), "sockets": sockets}


def _settled(before: dict[str, int]) -> dict[str, int]:
    """What is held once the server's own threads have seen that it closed."""
    deadline = time.monotonic() + (10 if before else 1)
    while (now := held()) != before and time.monotonic() < deadline:
        time.sleep(0.05)
    return now


def run(folder: Path, wanted: int, seed: int, together: int) -> tuple[Campaign, Provider]:
    """One campaign."""
    names = [f"faulty_{n:04}" for n in range(wanted // 2 + together)]
    traceset = a_traceset(folder / "set", *names, sizes=(3,))
    provider = Provider(seed)
    with lb.LoopbackServer(provider) as server:
        campaign = Campaign(traceset, folder / "runs.db", server.base_url)
        asyncio.run(campaign.work(wanted, together, provider))
    return campaign, provider


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--together", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        # Whatever is opened once and kept is opened here.
        run(Path(name, "first"), 8, options.seed + 1, 4)
        before = _settled({})
        began = time.monotonic()
        campaign, provider = run(
            Path(name, "campaign"), options.requests, options.seed, options.together
        )
        took_s = time.monotonic() - began
        after = _settled(before)
        wrong = check(campaign, provider)
    if after != before:
        wrong.append(f"held before: {before}, after: {after}")
    entries = provider.entries
    replies = sum(isinstance(entry.way, Answers) for entry in entries)
    endings = Counter(campaign.ended.values())
    header = ("requests", "replies", "failures", "runs", "solved", "unsolved", "refused")
    header += ("unavailable", "resumed", "window", "s", "do not hold")
    row = [len(entries), replies, len(entries) - replies, len(campaign.ended)]
    row += [endings[one] for one in ("solved", "unsolved", "refused", "unavailable")]
    row += [campaign.resumed, campaign.window, round(took_s), len(wrong)]
    print(f"{machine_line('cpu')}\n\n{table(header, [[str(cell) for cell in row]])}\n")
    kinds = Counter(entry.kind for entry in entries)
    print(table(("what the server did", "times"), [[k, str(n)] for k, n in sorted(kinds.items())]))
    print(f"\n{len(kinds)} kinds; before and after: {before}, {after}")
    for words in wrong:
        print(f"\ndoes not hold: {words}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
