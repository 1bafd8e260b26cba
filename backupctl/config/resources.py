"""What the configuration names, opened: stores, repositories, hosts, sources. Lazily, each once, closed together."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING

from backupctl.clock import Clock
from backupctl.config import unlocking
from backupctl.config.models import Job, RepositorySettings, Settings
from backupctl.config.secrets import fetch_secret, secrets_in
from backupctl.errors import ConfigError, CouldNotRunError, NoSuchError
from backupctl.hosts.secret import SecretRef
from backupctl.repository import opening
from backupctl.repository.locks import ignore_hangup
from backupctl.storage.registry import open_store
from backupctl.storage.throttle import Throttle

if TYPE_CHECKING:  # what deriving a key needs comes first: everything else can be imported meanwhile
    from backupctl.hosts.protocol import Host
    from backupctl.repository.cache import CachePlace
    from backupctl.repository.repository import Repository
    from backupctl.sources.protocol import Source
    from backupctl.storage.protocol import ObjectStore

log = logging.getLogger(__name__)

_RELEASE_SECONDS = 5.0
_PATIENCE_SECONDS = sys.getswitchinterval()
_HASTE_SECONDS = 0.0005
"""So long a thread waits for the interpreter while another imports. With the usual 5 ms, once after each system call, the lock was
written after 24 ms, and with this after 6."""


class Resources:
    """One per run. Use from one thread; `close` (or leaving the context) closes what was opened, newest first. With
    `read_only`, stores refuse whatever would write to them."""

    def __init__(self, settings: Settings, clock: Clock, *, read_only: bool = False) -> None:
        self.settings = settings
        self.read_only = read_only
        self.clock = clock
        self._stores: dict[str, ObjectStore] = {}
        self._repositories: dict[str, Repository] = {}
        self._hosts: dict[str, Host] = {}
        self._ahead: dict[str, Future[Repository]] = {}  # until they are asked for
        self._begun: list[Future[Repository]] = []  # all of them
        self._open = contextlib.ExitStack()
        self._allowed: list[SecretRef] | None = None
        self.secret_seconds = 0.0  # what fetching secrets took so far

    def store(self, name: str, create: bool = False) -> ObjectStore:
        """The place of a repository. Only with `create` is a missing directory made."""
        if name not in self._stores:
            repository = self._repository(name)
            zone = self.settings.defaults.timezone
            store = open_store(
                repository.storage,
                secrets=self.secret,
                base=self.settings.base,
                clock=self.clock,
                create=create,
                read_only=self.read_only,
                throttle=Throttle(repository.limits, self.clock, timezone=zone) if repository.limits else None,
            )
            self._open.callback(store.close)
            self._stores[name] = store
        return self._stores[name]

    def repository(self, name: str) -> Repository:
        """Raises NoSuchError for a name the configuration does not have or a place that holds no repository."""
        if name not in self._repositories:
            begun = self._ahead.pop(name, None)
            self._repositories[name] = self._opened(name) if begun is None else begun.result()
        return self._repositories[name]

    def _opened(self, name: str) -> Repository:
        store = self.store(name)
        password = self.password(name)
        keys, config = unlocking.begun(store.location, password) or opening.unlock(store, password)
        from backupctl.repository.repository import Repository

        cache = self._cache_place(self._repository(name))
        return Repository(store, keys, config, clock=self.clock, cache=cache)

    def open_ahead(self, name: str) -> None:
        """Open a repository in a thread, and write the lock that will be asked for: another processor derives the key, and the lock
        settles, while we do something else. What goes wrong is raised by `repository`. Call it in the main thread."""
        begun: Future[Repository] = Future()

        def open_and_lock() -> None:
            sys.setswitchinterval(_HASTE_SECONDS)
            try:
                repository = self._opened(name)
                repository.lock_ahead()
            except BaseException as error:  # noqa: BLE001 — raised where the result is asked for
                begun.set_exception(error)
            else:
                begun.set_result(repository)
            finally:
                sys.setswitchinterval(_PATIENCE_SECONDS)

        if ignore_hangup():
            self._open.callback(signal.signal, signal.SIGHUP, signal.SIG_DFL)
        self._ahead[name] = begun
        self._begun.append(begun)
        threading.Thread(target=open_and_lock, name="open ahead", daemon=True).start()
        import_module("backupctl.repository.repository")  # while the key is derived

    def lend(self, name: str, repository: Repository) -> None:
        """From here on `repository` is what that name opens: a rehearsal's, which keeps what is written to it."""
        self._repositories[name] = repository

    def _cache_place(self, repository: RepositorySettings) -> CachePlace | None:
        from backupctl.repository.cache import CachePlace, default_directory

        settings = self.settings.cache
        if settings is None:
            return None
        try:
            directory = settings.directory and self.settings.base / settings.directory.expanduser()
            directory = directory or default_directory()
        except RuntimeError as error:
            log.warning("no cache, which costs speed only: %s; name one: `cache: {directory: …}`", error)
            return None
        return CachePlace(directory, settings.max_size, trees=repository.storage.local is None)

    def password(self, name: str) -> str:
        """The repository's password. Raises ConfigError when it is no text."""
        reference = self._repository(name).password
        try:
            return self.secret(reference).decode("utf-8")
        except UnicodeDecodeError:
            raise ConfigError(
                f"the password of repository {name!r} ({reference}) is no UTF-8 text",
                next_step="use a text password; restic can read no other",
            ) from None

    def host(self, name: str) -> Host:
        """Through its jump hosts when it has any; connected when it is used. Raises NoSuchError, ConfigError."""
        if name not in self._hosts:
            from backupctl.hosts.registry import open_host

            if name not in self.settings.hosts:
                known = ", ".join(sorted(self.settings.hosts))
                raise NoSuchError(f"no host named {name!r}; known hosts: {known}", next_step="backupctl config show")
            hosts = self.settings.hosts
            host = open_host(name, hosts[name], secrets=self.secret, base=self.settings.base, hosts=hosts)
            self._open.callback(host.close)
            self._hosts[name] = host
        return self._hosts[name]

    def source(self, job: Job, name: str) -> Source:
        """The source of that name in the job; nothing is connected yet."""
        if name not in job.sources:
            known = ", ".join(sorted(job.sources))
            raise NoSuchError(
                f"job {job.job!r} has no source {name!r}; it has {known}", next_step="backupctl config show"
            )
        from backupctl.sources.registry import make_source

        settings = job.sources[name]
        return make_source(name, settings.kind, settings.options, secrets=self.secret)

    def secret(self, reference: SecretRef) -> bytes:
        """Raises ConfigError when it cannot be fetched, CouldNotRunError when it may not, see `confine`."""
        if self._allowed is not None and reference not in self._allowed:
            raise CouldNotRunError(
                f"{reference} is a secret of production, and a drill loads none",
                next_step="a drill needs the repositories' keys and the staging host's; see docs/how-to/drill.md",
            )
        begun = self.clock.monotonic()
        try:
            return fetch_secret(reference)
        finally:
            self.secret_seconds += self.clock.monotonic() - begun

    @contextlib.contextmanager
    def confined(self, repositories: Iterable[str], host: str, more: Iterable[SecretRef] = ()) -> Iterator[int]:
        """Inside, only `more` and the secrets of these repositories and of this host with its jump hosts are given, whoever
        asks. How many others the configuration names, which are not."""
        allowed: list[SecretRef] = [*more]
        for name in repositories:
            allowed += secrets_in(self._repository(name))
        way: list[str] = []
        step: str | None = host
        while step is not None and step not in way and (options := self.settings.hosts.get(step)) is not None:
            way.append(step)
            step = options.ssh.jump if options.ssh is not None else None
            allowed += secrets_in(options)
        before, self._allowed = self._allowed, allowed
        try:
            yield sum(one not in allowed for one in secrets_in(self.settings))
        finally:
            self._allowed = before

    def close(self) -> None:
        while self._begun:
            _release(self._begun.pop())  # while its store is open
        self._ahead.clear()
        self._stores.clear()
        self._repositories.clear()
        self._hosts.clear()
        self._open.close()

    def _repository(self, name: str) -> RepositorySettings:
        try:
            return self.settings.repositories[name]
        except KeyError:
            known = ", ".join(sorted(self.settings.repositories)) or "none"
            raise NoSuchError(
                f"no repository named {name!r}; known repositories: {known}", next_step="backupctl config show"
            ) from None

    def __enter__(self) -> Resources:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _release(begun: Future[Repository]) -> None:
    """The lock that nobody asked for. When the store does not answer, it goes stale with this process."""
    with contextlib.suppress(TimeoutError):
        if begun.exception(_RELEASE_SECONDS) is None:
            begun.result().release_ahead()
