"""Checkpoints are taken up while the server runs: those that are new, changed or gone. No request is dropped."""

import asyncio
import logging
import time

from pydantic import BaseModel, Field

from app.catalog import Catalog, StartupError
from app.registry import MOST_OLD, Entry, Registry, ServedModel
from app.settings import Settings
from app.tasks.beside import tidy_memory
from models.checkpoint.format import CheckpointError, describe

logger = logging.getLogger("carousel")


class ReloadResponse(BaseModel):
    """Names of models, by what became of them."""

    loaded: list[str] = Field(description="New, or of a new version.")
    kept: list[str] = Field(description="As they were.")
    refused: list[str] = Field(description="What is on disk cannot be served; the version before it, if any, still is.")
    removed: list[str] = Field(description="Their folders are gone.")


class Reloader:
    """Compares the folder of checkpoints with what is served. Used on the event loop alone."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings
        self._one_at_a_time = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()

    async def reload(self) -> ReloadResponse:
        """Take up what has changed. Requests under way end on the version that they began with."""
        async with self._one_at_a_time:
            answer = ReloadResponse(loaded=[], kept=[], refused=[], removed=[])
            self._registry.refused.clear()
            try:
                paths = (await asyncio.to_thread(Catalog, self._settings)).paths
            except StartupError:  # an empty folder
                paths = {}
            for name, path in paths.items():
                entry = self._registry.entries.get(name)
                try:
                    description = await asyncio.to_thread(describe, path)
                    if entry is not None and entry.description.version == description.version:
                        answer.kept.append(name)
                        continue
                    served = await self._registry.start_version(path)
                except (CheckpointError, StartupError) as error:
                    refused = error if isinstance(error, CheckpointError) else CheckpointError(path, str(error))
                    answer.refused.append(self._registry.refuse(name, refused).name)
                    continue
                if entry is None:
                    entry = self._registry.entries[name] = Entry(name, path, description)
                self._replace(entry, served)
                entry.description = description
                self._registry.make_room(served)
                answer.loaded.append(name)
            for name in sorted(set(self._registry.entries) - set(paths) - {self._registry.default}):
                gone = self._registry.entries.pop(name)
                self._registry.leaving.append(gone)
                self._replace(gone, None)
                answer.removed.append(name)
            self._registry.entries = dict(sorted(self._registry.entries.items()))
            logger.info("reloaded: %s", answer.model_dump_json())
            return answer

    def _replace(self, entry: Entry, served: ServedModel | None) -> None:
        """Let `served` answer from now on; the version before it stays for those who use it."""
        before, entry.current = entry.current, served
        if before is None and entry in self._registry.leaving:
            self._registry.leaving.remove(entry)
        if before is not None:
            entry.old.append(before)
            task = asyncio.create_task(self._retire(entry, before))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _retire(self, entry: Entry, served: ServedModel) -> None:
        """Keep an old version while requests use it, and some time after, for states that clients hold."""
        began = time.monotonic()
        while served.users or self._seconds_left(entry, served) > 0:
            await asyncio.sleep(0.05 if served.users else min(1.0, self._seconds_left(entry, served)))
        entry.old.remove(served)
        entry.past.add(served.version)
        if entry in self._registry.leaving and not entry.old:
            self._registry.leaving.remove(entry)
        await asyncio.to_thread(served.engine.stop)
        del served
        await asyncio.to_thread(tidy_memory)
        logger.info("let go an old version of %s after %.0f s", entry.name, time.monotonic() - began)

    def _seconds_left(self, entry: Entry, served: ServedModel) -> float:
        newer = len(entry.old) - 1 - entry.old.index(served)
        if newer >= MOST_OLD:
            return 0.0
        return served.used_at + self._settings.old_version_seconds - time.monotonic()
