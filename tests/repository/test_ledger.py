"""What was read is a fact in the repository: nothing unread counts as read, and nobody's reading is lost."""

from __future__ import annotations

from datetime import timedelta

import pytest

from backupctl.clock import FakeClock
from backupctl.errors import Denied, Transient
from backupctl.repository import ledger as module
from backupctl.repository.check import check
from backupctl.repository.ledger import KIND, Ledger, is_missed
from backupctl.repository.prune import apply_prune, plan_prune
from backupctl.repository.repository import Repository, pack_name
from tests.repository.engine import NOW, FailingStore, backup, content, create, damage, objects, reopen

DAY = timedelta(days=1)


def many_packs(store: FailingStore | None = None) -> Repository:
    repository = create(store)
    backup(repository, {f"f{number}": content(number, 60_000) for number in range(6)}, target_bytes=64 << 10)
    return repository


def data_packs(repository: Repository) -> list[bytes]:
    return sorted({place.pack for place in repository.index if place.blob.kind == "data"})


def at(repository: Repository, days: float) -> Repository:
    again = reopen(repository)
    assert isinstance(again.clock, FakeClock)
    again.clock.advance(days * 86400)
    return again


def read(repository: Repository, budget: int) -> set[bytes]:
    """Check with a ledger; the data packs that were asked for."""
    asked: list[str] = []
    inner = repository.store.get

    def get(name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        asked.append(name)
        return inner(name, offset=offset, length=length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repository.store, "get", get)
        check(repository, budget=budget, ledger=Ledger(repository))
    return {pack for pack in data_packs(repository) if pack_name(pack) in asked}


def test_a_budget_gets_round_everything_and_begins_again_with_the_oldest() -> None:
    repository = many_packs()
    packs = data_packs(repository)
    assert len(packs) > 4
    rounds = [read(at(repository, day), budget=1) for day in range(1, len(packs) + 1)]
    assert all(len(one) == 1 for one in rounds), "at least one pack, and no more than the budget"
    assert set.union(*rounds) == set(packs)
    assert read(at(repository, 50), budget=1) == rounds[0]


def test_a_budget_counts_bytes_and_trees_come_out_of_it() -> None:
    repository = many_packs()
    sizes = {info.name: info.size for info in objects(repository, "data/")}
    trees = sum(size for name, size in sizes.items() if bytes.fromhex(name[8:]) not in data_packs(repository))
    chosen = read(at(repository, 1), budget=trees + 150_000)
    assert 0 < sum(sizes[pack_name(pack)] for pack in chosen) <= 150_000


def test_coverage_tells_read_from_written_and_from_neither() -> None:
    repository = many_packs()
    first = check(at(repository, 1), ledger=Ledger(at(repository, 1))).coverage
    assert first.never_read_packs == len(data_packs(repository)), "trees are read by every check"
    later = at(repository, 10)
    whole = check(later, read_data=True, ledger=Ledger(later)).coverage
    assert (whole.never_read_packs, whole.oldest) == (0, NOW + 10 * DAY)
    assert whole.packs == len(list(objects(repository, "data/"))) and whole.bytes > 300_000
    assert not is_missed(whole.oldest, 30 * DAY, NOW + 40 * DAY)
    assert is_missed(whole.oldest, 30 * DAY, NOW + 40 * DAY + timedelta(seconds=1))


def test_a_pack_that_prune_wrote_anew_is_unread() -> None:
    repository = many_packs()
    doomed = backup(repository, {"x": content("x", 60_000), "f0": content(0, 60_000)}, day=1)
    later = at(repository, 10)
    check(later, read_data=True, ledger=Ledger(later))
    repository.delete_snapshot(doomed.id)
    before = set(data_packs(repository))
    pruned = at(repository, 11)
    apply_prune(pruned, plan_prune(pruned))
    fresh = set(data_packs(reopen(repository))) - before
    found = Ledger(repository)
    assert all(found.last_read(pack).year == 1 for pack in fresh)


@pytest.mark.parametrize("how", ["flip", "cut"])
def test_what_was_bad_is_read_again_until_it_is_good(how: str) -> None:
    repository = many_packs()
    check(repository, read_data=True, ledger=Ledger(repository))
    bad = data_packs(repository)[2]
    damage(repository, pack_name(bad), bit=800, cut=7 if how == "cut" else 0)
    for day in (1, 2, 3):
        later = at(repository, day)
        report = check(later, read_data=day == 1, budget=1, ledger=Ledger(later))
        assert [problem.object_name for problem in report.problems] == [pack_name(bad)]
        assert report.coverage.bad_packs == 1
    assert Ledger(repository).is_bad(bad)


def test_checks_at_the_same_time_lose_nothing_of_each_other() -> None:
    repository = many_packs()
    packs = data_packs(repository)
    one, other = Ledger(repository), Ledger(reopen(repository))
    one.note(packs[0], good=True)
    other.note(packs[1], good=True)
    one.save()
    other.save()
    found = Ledger(repository)
    assert {pack for pack in packs if found.last_read(pack) == NOW} == {packs[0], packs[1]}


def test_many_records_become_one_and_a_cut_at_any_step_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLD_RECORDS", 4)
    step = 0
    while True:
        step += 1
        store = FailingStore()
        repository = many_packs(store)
        packs = data_packs(repository)
        for day, pack in enumerate((*packs[:4], b"\7" * 32)):
            book = Ledger(at(repository, day))
            book._repository.clock.advance(day)  # type: ignore[attr-defined]  # a FakeClock
            book.note(pack, good=day != 3)
            book.save()
        expected = [Ledger(repository).last_read(pack) for pack in packs]
        store.fail_at = len(store.changes) + step
        folded = True
        try:
            Ledger(repository).fold(packs)
        except Transient:
            folded = False
        store.fail_at = 0
        again = Ledger(repository)
        assert [again.last_read(pack) for pack in packs] == expected
        assert again.is_bad(packs[3])
        if folded:
            break
    assert step > 4
    assert len(repository.records(KIND)) == 1
    assert again.last_read(b"\7" * 32).year == 1, "a pack that is gone is forgotten"


def test_an_interrupted_check_keeps_what_it_read() -> None:
    class Stop(BaseException):
        pass

    repository = many_packs()

    def progress(done: int, total: int) -> None:
        if done > 150_000:
            raise Stop

    with pytest.raises(Stop):
        check(repository, read_data=True, progress=progress, ledger=Ledger(repository))
    found = Ledger(repository)
    assert 0 < sum(found.last_read(pack) == NOW for pack in data_packs(repository)) < len(data_packs(repository))


def test_long_checks_save_on_the_way() -> None:
    repository = many_packs()
    book = Ledger(repository)
    book.note(data_packs(repository)[0], good=True)
    assert repository.records(KIND) == []
    assert isinstance(repository.clock, FakeClock)
    repository.clock.advance(601)
    book.note(data_packs(repository)[1], good=True)
    assert len(repository.records(KIND)) == 1
    assert Ledger(repository).last_read(data_packs(repository)[1]) == NOW, "never later than it was read"


def test_a_store_that_cannot_be_written_to_is_checked_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    class ReadOnly(FailingStore):
        def put(self, name: str, data: bytes, *, if_absent: bool = False) -> None:
            if self.fail_at:
                raise Denied("read only", name=name)
            super().put(name, data, if_absent=if_absent)

    store = ReadOnly()
    repository = many_packs(store)
    store.fail_at = 10**9
    assert check(repository, read_data=True, ledger=Ledger(repository)).problems == []
    assert "could not be noted" in caplog.text


def test_a_damaged_record_makes_unread_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    repository = many_packs()
    check(repository, read_data=True, ledger=Ledger(repository))
    (record,) = objects(repository, f"backupctl/{KIND}/")
    damage(repository, record.name)
    report = check(repository, read_data=False, ledger=Ledger(repository))
    assert report.coverage.never_read_packs == len(data_packs(repository)) and record.name in caplog.text
    assert record.name in [one.object_name for one in check(repository, read_data=True).problems]
