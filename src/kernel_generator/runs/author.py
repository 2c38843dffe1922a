"""Who is asked, and how: one language model that several runs may share.

Its connections are closed when the last run of an event loop has ended, and not before.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from kernel_generator.domain.conversation import Sampling

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from kernel_generator.models.protocol import LanguageModel


class Author:
    """A language model and the settings it is asked with."""

    def __init__(self, model: LanguageModel, sampling: Sampling | None = None) -> None:
        self.model = model
        self.sampling = sampling or Sampling()
        self._runs = WeakKeyDictionary[asyncio.AbstractEventLoop, int]()

    @asynccontextmanager
    async def at_work(self) -> AsyncGenerator[None]:
        """For as long as one run asks."""
        loop = asyncio.get_running_loop()
        self._runs[loop] = self._runs.get(loop, 0) + 1
        try:
            yield
        finally:
            self._runs[loop] -= 1
            if not self._runs[loop]:
                del self._runs[loop]
                await self.model.close()
