"""Starts, finds and stops replica processes on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from embedfleet.fleet.providers.provider import End
from embedfleet.runtime.machine import loopback, usable_processors
from embedfleet.runtime.process import file_in_memory, interpreter
from embedfleet.runtime.settings import Pool, Settings, as_toml
from embedfleet.runtime.text_files import reason
from embedfleet.transport.description import ANNOUNCEMENT
from embedfleet.vocabulary import SettingError, SetupError

log = logging.getLogger(__name__)

ANNOUNCE_TIMEOUT_S = 60.0
"""From the start of the interpreter to the announcement; the model is loaded after it."""


@contextlib.contextmanager
def keyed(settings: Settings) -> Iterator[Settings]:
    """The settings with a key of this start for every pool whose replicas are all started here.

    On a shared machine any user can reach a loopback port, so each local replica asks for the
    key of its pool. A pool that names a key for its replicas elsewhere keeps that one; one that
    names none for them has none here either, since every replica of a pool is sent the same.

    The key lies in memory, in a file that processes of this user alone can open: there is nothing
    on a disk to be cleaned away before a replica is started again.
    """
    held = file_in_memory("replica.key", secrets.token_urlsafe(32).encode())
    try:
        path = Path(f"/proc/{os.getpid()}/fd/{held}")
        if any(map(_only_local, settings.pools)) and not path.exists():
            raise SetupError(
                "/proc shows no processes, and replicas that are started here read their settings "
                "and key there: mount it (mount -t proc proc /proc)"
            )
        pools = tuple(
            dataclasses.replace(pool, replica_key_file=path) if _only_local(pool) else pool
            for pool in settings.pools
        )
        yield dataclasses.replace(settings, pools=pools)
    finally:
        os.close(held)


def _only_local(pool: Pool) -> bool:
    elsewhere = pool.replica_urls or pool.replica_service or pool.replica_key_file
    return bool(pool.engine == "embedfleet" and pool.replicas and not elsewhere)


ORPHANS_GRACE_S = 5.0
"""How long processes that a replica started and left behind (workers of an engine) may take to end
after SIGTERM, before SIGKILL."""


def replica_settings(
    settings: Settings, pool: Pool, model: Path, names: tuple[str, ...]
) -> Settings:
    """The settings of one of the pool's local replica processes.

    The model is named by its directory: it is found, and downloaded, once. The machine's processors
    are shared out: two replicas that each use all of them would only get in each other's way. Where
    their number follows the load they are shared out for the largest one, so that what a replica
    can do, by which the number is decided, does not fall as others join it. GPUs are given out in
    turn, over all pools.
    """
    scaled = settings.autoscaling
    local = [
        max(scaled.max_replicas, 1) if scaled.enabled and other.replicas else other.replicas
        for other in settings.pools
    ]
    threads = settings.engine.threads or max(1, usable_processors() // max(1, sum(local)))
    before = next((at for at, other in enumerate(settings.pools) if other is pool), 0)
    return dataclasses.replace(
        settings,
        replica=dataclasses.replace(
            settings.replica,
            host=loopback(),
            port=0,
            exit_with_parent=True,
            key_file=pool.replica_key_file,
            places_before=sum(local[:before]),
        ),
        engine=dataclasses.replace(settings.engine, threads=threads),
        pools=(
            dataclasses.replace(
                pool, model=str(model), served_names=names, replica_urls=(), replicas=1
            ),
        ),
    )


def placed(settings: Settings, name: str) -> Settings:
    """The settings of the replica `local-N`: it knows its number."""
    place = int(name.rpartition("-")[2])
    return dataclasses.replace(settings, replica=dataclasses.replace(settings.replica, place=place))


SETUP_FAILED = 2
"""The exit code of every embedfleet command whose settings or model are wrong."""


class LocalReplica:
    """A running replica process with its children: a process group."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        """`process` leads a process group. It is told to end by the end of its standard input where
        that is a pipe, else by SIGTERM.
        """
        self._process = process
        self._url = url

    @property
    def url(self) -> str:
        return self._url

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ended(self) -> End:
        code = await self._process.wait()
        await self._end_orphans()
        if code < 0:
            return End(f"killed by {signal.Signals(-code).name}", hopeless=False)
        return End(f"exit code {code}", hopeless=code == SETUP_FAILED)

    async def stop(self, grace_s: float) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        else:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        try:
            # Not wait_for: in Python 3.11 it swallows a cancellation that meets its end.
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            log.warning("process %d did not stop within %g s; killing it", self.pid, grace_s)
            self._signal_group(signal.SIGKILL)
            await self._process.wait()
        await self._end_orphans()

    async def _end_orphans(self) -> None:
        """End what is left of the group once its leader is gone."""
        if not self._signal_group(signal.SIGTERM):
            return
        try:
            async with asyncio.timeout(ORPHANS_GRACE_S):
                while self._signal_group(0):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            log.warning("killing processes that process %d left behind", self.pid)
            self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: int) -> bool:
        """Whether there is anything of the group."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True


class LocalProvider:
    """Starts `embedfleet replica` processes that all serve one pool."""

    def __init__(self, settings: Settings) -> None:
        """`settings` are those of any replica."""
        self._settings = settings

    async def start(self, name: str) -> LocalReplica:
        """Start a process.

        It is given its settings as a file in memory: nothing of them shows in `ps`, and there is
        nothing on a disk to be full, read-only, or cleaned of old files. It has a process group of
        its own, for a terminal sends Ctrl-C to the whole of one; and it lives for as long as its
        standard input is open, so that it ends with us, however we do.
        """
        settings = as_toml(placed(self._settings, name)).encode()
        try:
            config = file_in_memory(f"{name}.toml", settings)
        except OSError as error:
            raise SetupError(f"{error.filename}: {reason(error)}") from error
        words = ["replica", "--config", f"/proc/self/fd/{config}", "--file-only"]
        try:
            process = await asyncio.create_subprocess_exec(
                *interpreter("-m", "embedfleet", *words),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                pass_fds=(config,),
                start_new_session=True,
            )
        except OSError as error:
            raise SetupError(f"{sys.executable} can't be started: {reason(error)}") from error
        finally:
            os.close(config)
        assert process.stdout is not None  # noqa: S101  for the type checker; it is a PIPE
        url = ""
        try:
            async with asyncio.timeout(ANNOUNCE_TIMEOUT_S):
                url = await announced(process.stdout)
        except TimeoutError:
            pass
        finally:
            if not url:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        if not url:
            code = await process.wait()
            kind = SettingError if code == SETUP_FAILED else SetupError
            raise kind(f"replica {name} ended with exit code {code} before it had an address")
        return LocalReplica(process, url)


async def announced(output: asyncio.StreamReader) -> str:
    """The address that a replica says it has; empty where it ends before. Lines before it are of
    others: what customises an interpreter may greet.
    """
    while not output.at_eof():
        try:
            line = await output.readline()
        except ValueError:  # longer than what the reader buffers, so not the announcement
            continue
        text = line.decode("utf-8", "replace").strip()
        if text.startswith(ANNOUNCEMENT):
            return text.removeprefix(ANNOUNCEMENT)
    return ""
