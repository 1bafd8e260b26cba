"""Turns what sources yield into trees and blobs, reading only what changed since the parent snapshot.

Directories are built bottom-up from the depth-first stream: memory holds the directories that are open, never the whole
tree. `BlobSaver` compresses, seals and uploads behind our back while the next bytes are read.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from errno import ENOENT

from backupctl.clock import Clock, SystemClock
from backupctl.errors import SourceError, StoreUnreachableError, UnreachableError, UserError
from backupctl.repository.chunker import Chunker
from backupctl.repository.contents import Arrived, Content, ContentReader, Links
from backupctl.repository.entry import Entry, LocalTree, Problem, ProblemKind
from backupctl.repository.format.names import display_name
from backupctl.repository.format.node import Node
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.tree import encode_tree
from backupctl.repository.guarded import error_text
from backupctl.repository.local_walk import LocalWalk
from backupctl.repository.looks import Looks
from backupctl.repository.manifest import RECORD_KIND, ManifestReader
from backupctl.repository.manifest_facts import ManifestFacts, SourceTotals
from backupctl.repository.open_directories import Before, Directory, OldTreesReader, OpenDirectories
from backupctl.repository.pool import Pool
from backupctl.repository.repository import Repository
from backupctl.repository.stretches import Joiner, Stretch, above
from backupctl.repository.written import SnapshotStats, WrittenSnapshot

log = logging.getLogger(__name__)

Progress = Callable[[int, int, bytes], None]
"""Files done, bytes done, current path (with the source's name). Called often: must be cheap."""

SavePartial = Callable[[ManifestFacts], None]
"""Given now and then what was done by now; `tree` is durable and in the index, as far as it has been read."""

PARTIAL_SECONDS = 300.0  # so much reading, about, is done again after a kill
PARTIAL_SHARE = 50  # and what saving it takes stays below a fiftieth of the run


class SnapshotWriter:
    """One snapshot in the making. Use as a context manager: leaving it before `finish` drops what is not yet uploaded.

    Without a parent and its manifest (of schema 2) every file is read. Unreadable things become problems; StorageError,
    and anything that means a bug, passes through and ends the run. `notes` collects what a person should know but lost no
    data.

    `resume` is what an interrupted run with the same parent has left: its tree is then compared with instead of the
    parent's. With `save_partial` the same is handed out during this run, every
    `partial_seconds` or so (PARTIAL_SECONDS), and when a signal ends it.

    With `part` it stores stretches of a source for whoever joins them: directories that it makes itself are not counted. With
    `pool` its workers are those of its caller, who ends them.
    """

    def __init__(
        self,
        repo: Repository,
        *,
        parent: Snapshot | None = None,
        parent_manifest: ManifestReader | None = None,
        resume: ManifestFacts | None = None,
        save_partial: SavePartial | None = None,
        partial_seconds: float | None = None,
        progress: Progress | None = None,
        clock: Clock | None = None,
        part: bool = False,
        pool: Pool | None = None,
    ) -> None:
        self._repo = repo
        self._part = part
        base_facts = _facts_of(parent_manifest)
        self._base_tree = parent.tree if parent is not None and base_facts is not _NOTHING else None
        self._old_facts = resume if resume is not None else base_facts
        self._old_tree = resume.tree if resume is not None else self._base_tree
        self._save_partial = save_partial
        self._partial_seconds = PARTIAL_SECONDS if partial_seconds is None else partial_seconds
        self._progress = progress
        self._clock = clock or SystemClock()
        self._chunker_key = repo.derive(b"chunker", 8)
        self._pool, self._own_pool = pool or Pool(), pool is None
        self._saver = repo.blob_saver(self._pool)
        self._reader = ContentReader(
            self._saver, Chunker(self._chunker_key), self._clock, self._problem, self._count_bytes, self._goes_on
        )
        self._facts = ManifestFacts()
        self._totals = SourceTotals()
        self._roots: list[Node] = []
        self.stats = SnapshotStats()
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self._old_trees = OldTreesReader(lambda tree: repo.load_blob("tree", tree), self.notes)
        self.looks: dict[str, Looks] = {}  # at what was read of each source
        self._finished = False
        self._source = ""
        self._open: OpenDirectories | None = None
        self._walked_files = self._walked_bytes = 0
        self._links = Links()
        self._arrived: dict[bytes, Arrived] = {}  # contents of a stream, by path
        self._walking: tuple[LocalWalk, Node] | None = None
        self._resumed_files = self._resumed_bytes = 0
        self._resumable: set[bytes] = set()  # sources with files that can be recognised
        self._divided: set[bytes] = set()  # sources of which others store a part that is not joined yet
        self._elsewhere = SnapshotStats()  # what others have stored
        self._saved_blobs = 0
        self._next_partial = self._clock.monotonic() + self._partial_seconds

    def __enter__(self) -> SnapshotWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._finished:
            return
        try:
            if error is not None and not isinstance(error, Exception):  # asked to stop: nothing here is broken
                self._close_pool(kill=True)
                self._next_partial = self._clock.monotonic()
                self._keep_partial()
        except UserError as failed:
            log.warning("what was read cannot be kept for the next run: %s", failed.message)
        finally:
            self.abort()

    def abort(self) -> None:
        """Drop what is not yet uploaded; what is, nothing refers to."""
        self._close_pool(kill=True)
        self._saver.abort()

    def _close_pool(self, *, kill: bool = False) -> None:
        if self._own_pool:
            self._pool.close(kill=kill)

    def add_source(self, name: str, entries: Iterable[Entry], *, divided: bool = False) -> list[Problem]:
        """Store everything `entries` yields below `/<name>` and return what could not be read properly. Raises
        ValueError when the entries break the order that `repository.entry` asks for: a bug in the source. With `divided`
        they leave out what `add_stretches` brings: until then an interrupted run has nothing of this source to go on from."""
        first_problem = len(self.problems)
        if divided:
            self._divided.add(name.encode())
        self._begin_source(name)
        self._add_all(iter(entries), self._add)
        self._end_source()
        return self.problems[first_problem:]

    def add_stream(self, name: str, entries: Iterable[Entry]) -> list[Problem]:
        """As `add_source`, for entries in whatever order a stream brings them, such as an archive that is not sorted. Content
        is stored as it comes; nodes are kept (32 bytes for each blob) and put in order at the end."""
        first_problem = len(self.problems)
        self._begin_source(name)
        arrived: list[tuple[Entry, Arrived | None]] = []
        self._add_all(iter(entries), lambda entry: arrived.append((entry, self._arrive(entry))))
        for entry, content in sorted(arrived, key=lambda pair: pair[0].path.split(b"/")):
            if content is not None:
                self._arrived[entry.path] = content
            if content is not None or (entry.open is None and not entry.error):
                self._add(entry)
        self._end_source()
        return self.problems[first_problem:]

    def _arrive(self, entry: Entry) -> Arrived | None:
        if entry.error:
            self._add(entry)
        if entry.error or entry.open is None:
            return None
        content = self._reader.read(entry, self._source.encode() + b"/" + entry.path)
        return Arrived(b"".join(content.blobs), content.size, content.sha256) if content is not None else None

    def add_stretches(self, directories: Iterable[bytes], stretches: Sequence[Stretch]) -> list[Problem]:
        """Join what others have stored of the source that was added last, in these directories of its host, which it left out.
        Returns their problems. Raises SourceError, and adds nothing then, when they do not fit together."""
        top, name = self._roots[-1], self._source
        self._saver.flush()  # joining reads what was saved
        trees = [
            found.subtree for one in stretches if (found := self._old_trees.take(one.facts.tree, top.name)) is not None
        ]
        base = self._old_trees.take(self._base_tree, top.name)
        upper: list[tuple[Node | None, Node, Node | None]] = []
        joiner = Joiner(
            lambda tree: self._repo.load_blob("tree", tree),
            self._save_tree,
            above(directories, name),
            lambda *one: upper.append(one),
        )
        others = [tree for tree in trees if tree is not None]
        top.subtree = joiner.join(top.subtree, others, base.subtree if base is not None else None, top.name)
        self._divided.discard(top.name)
        for rest, node, old in upper:
            if rest is not None:
                self._count(rest, old, -1)
            else:
                self._totals.dirs += 1
            self._count(node, old)
        first_problem = len(self.problems)
        for one in stretches:
            self._totals.add(one.facts.sources[name])
            self._facts.whole |= one.facts.whole
            self._facts.fresh |= one.facts.fresh
            self.stats.merge(one.stats)
            self._elsewhere.merge(one.stats)
            self.looks[name].merge(one.looks)
            self.problems += one.problems
            self.notes += one.notes
        return self.problems[first_problem:]

    def _begin_source(self, name: str) -> None:
        encoded = name.encode()
        if encoded in (b"", b".", b"..") or b"/" in encoded or any(root.name == encoded for root in self._roots):
            raise ValueError(f"{name!r} cannot be a source's name here, or it was added before")
        self._source = name
        self._arrived.clear()
        self._links = Links()
        self._walking = None
        self._walked_files, self._walked_bytes = self.stats.total_files_processed, self.stats.total_bytes_processed
        self._totals = self._facts.sources[name] = SourceTotals()
        self.looks[name] = Looks()
        old = base = self._old_trees.take(self._old_tree, encoded)
        if self._base_tree != self._old_tree:
            base = self._old_trees.take(self._base_tree, encoded)
        self._open = OpenDirectories(name, Before(old, base), self._old_trees, self._save_tree, self._left)

    def _end_source(self) -> None:
        top = self._directories.end()
        self._open = None
        self._roots.append(top)

    @property
    def _directories(self) -> OpenDirectories:
        assert self._open is not None  # between `_begin_source` and `_end_source`
        return self._open

    def _left(self, directory: Directory) -> None:
        if not (directory.made and self._part):
            self._totals.dirs += 1
            self._count(directory.node, directory.before.base)

    def finish(self) -> WrittenSnapshot:
        """Everything durable and indexed, then the manifest saved. Call once, after the last source."""
        tree = self._facts.tree = self._save_tree(self._roots)
        self._close_pool()
        self._saver.flush()
        saved = self._saver.stats
        others = self._elsewhere
        self.stats.tree_blobs = saved.new_trees + others.tree_blobs
        self.stats.data_added = saved.new_bytes + others.data_added
        self.stats.data_added_packed = saved.stored_bytes + others.data_added_packed
        self.stats.data_blobs = saved.new_blobs - saved.new_trees + others.data_blobs
        manifest = self._repo.save_record(RECORD_KIND, self._facts.encode())
        self._finished = True
        totals = self._facts.sources
        return WrittenSnapshot(tree, manifest, self.stats, self._resumed_files, self._resumed_bytes, totals)

    def _keep_partial(self) -> None:
        """Now and then: everything read by now becomes durable, and findable by the next run should this one die."""
        now = self._clock.monotonic()
        if self._save_partial is None or now < self._next_partial:
            return
        saved = self._saver.stats
        if (seen := saved.new_blobs + saved.duplicate_blobs) != self._saved_blobs:
            facts = self._facts_so_far()
            self._saver.flush()
            self._save_partial(facts)
            seen = saved.new_blobs + saved.duplicate_blobs
        self._saved_blobs = seen
        done = self._clock.monotonic()
        self._next_partial = done + max(self._partial_seconds, PARTIAL_SHARE * (done - now))

    def _facts_so_far(self) -> ManifestFacts:
        """What is done, in trees, with what was known before of what is not done yet. Only of sources with files that can
        be recognised by the next run: a dump never is."""
        facts = ManifestFacts()
        facts.whole = self._old_facts.whole | self._facts.whole
        facts.fresh = self._old_facts.fresh | self._facts.fresh
        child: Node | None = None
        if self._walking is not None:
            walk, node = self._walking
            prefix = self._source.encode()
            facts.whole.update((prefix + path, digest) for path, digest in walk.found.whole.items())
            facts.fresh.update(prefix + path for path in walk.found.fresh)
            if (tree := walk.tree_so_far()) is not None:
                child = replace(node, subtree=tree)
        if self._open is not None:
            child = self._open.tree_so_far(child)
        whole = self._resumable - self._divided
        roots = [root for root in (*self._roots, *([child] if child is not None else [])) if root.name in whole]
        begun = {*(root.name for root in self._roots), self._source.encode()} - self._divided
        roots += (node for node in self._old_trees.all(self._old_tree) if node.name not in begun)
        facts.tree = self._save_tree(sorted(roots, key=lambda node: node.name))
        return facts

    def _add_all(self, entries: Iterator[Entry], add: Callable[[Entry], None]) -> None:
        while True:
            try:
                entry = next(entries, None)
            except (SourceError, UnreachableError, OSError) as error:
                self._ended_early(getattr(error, "item", "").encode(), error)
                return
            if entry is None:
                return
            if entry.stable or entry.below is not None:
                self._resumable.add(self._source.encode())
            try:
                add(entry)
                self._keep_partial()
            except StoreUnreachableError:  # the repository's place is gone, not the source: the run cannot go on
                raise
            except UnreachableError as error:  # every further entry would wait for the same dead host
                self._ended_early(entry.path, error)
                return

    def _add(self, entry: Entry) -> None:
        if entry.error:
            gone = os.strerror(ENOENT) in entry.error
            self._problem(entry.path, "vanished" if gone else "unreadable", entry.error)
            return
        *directories, name = parts = entry.path.split(b"/")
        if any(part in (b"", b".", b"..") or b"\0" in part for part in parts):
            raise ValueError(f"source {self._source!r} yielded the impossible path {entry.path!r}")
        opened = self._directories
        opened.enter(directories)
        kind = entry.node.type
        if kind == "dir":
            node, device = opened.canonical(entry.node, name), entry.node.device_id
            number = entry.number or (opened.number(device, name, "dir") if device else 0)
            if entry.below is None:
                opened.push(node, device, number)
            else:
                self._walk(entry.below, node, device, number)
            return
        before = opened.take(name)
        path = opened.here.path + b"/" + name
        if kind == "file":
            self._add_file(entry, name, before, path)
        elif kind != "socket":  # a socket means nothing without the process behind it
            self._store(opened.canonical(entry.node, name), before, path)

    def _add_file(self, entry: Entry, name: bytes, before: Before, path: bytes) -> None:
        arrived = self._arrived.pop(entry.path, None)
        if arrived is not None:
            content: Content | None = Content(arrived.ids(), arrived.size, arrived.sha256, entry.node)
        else:
            content = self._linked(entry) or self._unchanged(entry, before, path) or self._reader.read(entry, path)
        if content is None:
            return
        # only now: opening a file may have brought newer metadata
        node = self._directories.canonical(entry.node, name, entry.number)
        node.content, node.size = content.blobs, content.size
        self._links.met(entry.node, content)
        self._store(node, before, path, content)
        self.stats.total_files_processed += 1
        self._report(path)

    def _walk(self, tree: LocalTree, node: Node, device: int, number: int) -> None:
        """A whole directory of this machine."""
        before = self._directories.take(node.name)
        here = self._source.encode() + tree.path.rstrip(b"/")
        outside = len(here) - len(tree.path.rstrip(b"/"))
        facts = self._old_facts
        below = here + b"/"
        walk = LocalWalk(
            self._repo,
            self._saver,
            self._pool,
            tree,
            source=self._source,
            chunker_key=self._chunker_key,
            old_tree=before.old.subtree if before.old is not None else None,
            base_tree=before.base.subtree if before.base is not None else None,
            old_whole={path[outside:]: digest for path, digest in facts.whole.items() if path.startswith(below)},
            old_fresh=[path[outside:] for path in facts.fresh if path.startswith(below)],
            note=self.notes.append,
            progress=self._advance,
            pause=self._keep_partial,
        )
        self._walking = walk, node
        found = walk.run(device, number)
        prefix = self._source.encode()
        for path, kind, text in found.problems:
            self._problem(path.lstrip(b"/"), kind, text)
        self.stats.add(found.files, found.dirs)
        self.looks[self._source].merge(found.looks)
        self._resumed_files += found.resumed_files
        self._resumed_bytes += found.resumed_bytes
        if found.tree is None:
            self._walking = None
            return
        self._facts.whole |= {prefix + path: digest for path, digest in found.whole.items()}
        self._facts.fresh.update(prefix + path for path in found.fresh)
        self._totals.files += sum(found.files)
        self._totals.dirs += sum(found.dirs)
        self._totals.others += found.others
        self._totals.bytes += found.bytes
        self.stats.total_files_processed += sum(found.files)
        self.stats.total_bytes_processed += found.bytes
        node.subtree = found.tree
        self._walking = None
        self._directories.here.nodes.append(node)
        self._totals.dirs += 1
        self._count(node, before.base)

    def _store(self, node: Node, before: Before, path: bytes, content: Content | None = None) -> None:
        if content is None:
            self._totals.others += 1
        else:
            self._totals.files += 1
            self._totals.bytes += content.size
            if len(content.blobs) > 1:
                self._facts.whole[path] = content.sha256
            if content.fresh:
                self._facts.fresh.add(path)
            if content.look is not None and (before.base is None or before.base.content != content.blobs):
                self.looks[self._source].count(node.name, content.look, before=before.base is not None)
            content.look = None
        self._directories.here.nodes.append(
            node
        )  # after its facts: a partial must not pair it with those of an older one
        self._count(node, before.base)

    def _unchanged(self, entry: Entry, before: Before, path: bytes) -> Content | None:
        node, old = entry.node, before.old
        if not entry.stable or old is None or old.content is None or not _same_file(old, node):
            return None
        digest = self._old_facts.whole.get(path, b"")
        if path in self._old_facts.fresh or (len(old.content) > 1 and not digest):
            return None
        if not all(self._repo.has_blob("data", blob) for blob in old.content):
            return None
        self.stats.total_bytes_processed += old.size
        if before.base is not old and (before.base is None or not _same_file(before.base, node)):
            self._resumed_files += 1
            self._resumed_bytes += old.size
        return Content(old.content, old.size, digest, node)

    def _linked(self, entry: Entry) -> Content | None:
        content = self._links.take(entry.node)
        if content is not None:
            self._count_bytes(content.size)
        return content

    def _save_tree(self, nodes: list[Node]) -> bytes:
        return self._saver.save("tree", encode_tree(nodes))

    def _count(self, node: Node, old: Node | None, by: int = 1) -> None:
        outcome = "new" if old is None or old.type != node.type else "unmodified" if old == node else "changed"
        if node.type not in ("file", "dir"):  # restic's summary knows no others
            return
        kind = "dirs" if node.type == "dir" else "files"
        setattr(self.stats, f"{kind}_{outcome}", getattr(self.stats, f"{kind}_{outcome}") + by)

    def _problem(self, path: bytes, kind: ProblemKind, text: str) -> None:
        self.problems.append(Problem(self._source, display_name(path), kind, text))

    def _ended_early(self, path: bytes, error: SourceError | UnreachableError | OSError) -> None:
        self._problem(path, "failed", f"the source ended early: {error_text(error)}")

    def _advance(self, files: int, size: int, path: bytes) -> None:
        """Of a walk that is under way: its own counts are added at its end."""
        self._walked_files += files
        self._walked_bytes += size
        if self._progress is not None:
            self._progress(self._walked_files, self._walked_bytes, self._source.encode() + path)

    def _count_bytes(self, size: int) -> None:
        self.stats.total_bytes_processed += size

    def _goes_on(self, path: bytes) -> None:
        self._report(path)
        self._keep_partial()

    def _report(self, path: bytes) -> None:
        if self._progress is not None:
            self._progress(self.stats.total_files_processed, self.stats.total_bytes_processed, path)


_NOTHING = ManifestFacts()


def _same_file(old: Node, node: Node) -> bool:
    """Whether size, times and inode say that nothing was done to the file since."""
    return old.type == "file" and (old.size, old.mtime_ns, old.ctime_ns, old.inode) == (
        node.size,
        node.mtime_ns,
        node.ctime_ns,
        node.inode,
    )


def _facts_of(manifest: ManifestReader | None) -> ManifestFacts:
    """An older manifest does not say what the trees of its snapshot leave out in a way that we could use here: files are
    then read once more."""
    return manifest.facts if manifest is not None and manifest.has_facts else _NOTHING
