"""Batches on the command line: what a command hands in at its end, and fetches at its beginning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_generator.cli.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Collection

    from kernel_generator.domain.errors import KernelGeneratorError
    from kernel_generator.domain.events import Observer
    from kernel_generator.reporting.progress import Progress
    from kernel_generator.runs.settings import RunSettings
    from kernel_generator.runs.spending import Spending
    from kernel_generator.runs.store import Store


class Batching:
    """The batches of one command's runs."""

    def __init__(
        self,
        store: Store,
        base_url: str | None,
        progress: Progress,
        observer: Observer,
        hint: str = "",
    ) -> None:
        """`hint`: options that every command which is proposed for going on needs."""
        self._store = store
        self._base_url = base_url
        self._progress = progress
        self._observer = observer
        self._resume = f"kernel-generator resume --all{hint}"
        self._before: set[str] = set()
        self._failed: set[str] = set()

    def begin(self, model: str | None, dialect: str | None, effort: str | None) -> None:
        """Raises `InvalidInput` where a model cannot be asked in batches, and `ProviderError` where
        its provider says no, before anything is stored."""
        from kernel_generator.domain.errors import InvalidInput
        from kernel_generator.runs.batches import check_batches
        from kernel_generator.runs.blocking import run_blocking

        if model is None:
            raise InvalidInput("--batch is for a provider's model: name one with --model")
        run_blocking(check_batches(model, self._base_url, dialect, effort))
        self._before = {run.run_id for run in self._store.runs()}

    def end(self, code: Exit, spending: Spending) -> Exit:
        """Hand in what the runs that were begun since wait for; how the command is to end."""
        if code is Exit.INTERRUPTED:
            return code
        begun = {run.run_id for run in self._store.runs()} - self._before
        return max(code, self.submit(begun, spending))

    def take_in(self, run_ids: Collection[str], spending: Spending, alone: bool) -> Exit:
        """Note the replies of batches that are over. What goes wrong is raised where the command is
        for one run `alone`, else told."""
        from kernel_generator.domain.errors import KernelGeneratorError
        from kernel_generator.runs.batches import open_desk, take_in
        from kernel_generator.runs.blocking import run_blocking

        code = Exit.SOLVED
        for settings, those in self._waiting(run_ids):
            try:
                desk = open_desk(settings, self._base_url)
                run_blocking(take_in(self._store, desk, those, spending, self._observer))
            except KernelGeneratorError as error:
                if alone:
                    raise
                self._failed |= set(those)
                code = max(code, self._went_wrong(error))
        return code

    def submit(self, run_ids: Collection[str], spending: Spending) -> Exit:
        """Hand in what waits in these runs, one batch a model; says how to go on."""
        from kernel_generator.domain.errors import KernelGeneratorError
        from kernel_generator.runs.batches import open_desk, submit_waiting
        from kernel_generator.runs.blocking import run_blocking

        code, made = Exit.SOLVED, False
        for settings, those in self._waiting(set(run_ids) - self._failed):
            try:
                desk = open_desk(settings, self._base_url)
                submitting = submit_waiting(self._store, desk, those, spending, self._observer)
                made = run_blocking(submitting) is not None or made
            except KernelGeneratorError as error:
                code = max(code, self._went_wrong(error))
        if made:
            self._progress.line(f"to go on, within a day: {self._resume}")
        return code

    def _waiting(self, run_ids: Collection[str]) -> list[tuple[RunSettings, list[str]]]:
        """Those that wait for a batch's reply, by model and dialect: a batch is of one model."""
        from kernel_generator.runs.journal import known_runs

        found: dict[tuple[str, str | None], tuple[RunSettings, list[str]]] = {}
        for run in known_runs(self._store)[0]:
            settings = run.settings
            if run.run_id in run_ids and settings.batch and run.waits:
                key = settings.model, settings.dialect
                found.setdefault(key, (settings, []))[1].append(run.run_id)
        return list(found.values())

    def _went_wrong(self, error: KernelGeneratorError) -> Exit:
        from kernel_generator.domain.errors import BudgetSpent, ProviderError

        if isinstance(error, BudgetSpent):
            self._progress.line(f"{error}; to go on with more: {self._resume} --max-… N")
            return Exit.UNSOLVED
        self._progress.line(f"error: {error}; to go on: {self._resume}")
        return Exit.PROVIDER if isinstance(error, ProviderError) else Exit.UNSOLVED
