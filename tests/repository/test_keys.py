"""Key files: added only when proven, removed only while another is, and a repository that nobody locks himself out of."""

from __future__ import annotations

import hashlib

import pytest

from backupctl.clock import FakeClock
from backupctl.errors import NoSuchError, UsageError, WrongKeyError
from backupctl.repository.format.crypto import Keys
from backupctl.repository.format.keyfile import encode_keyfile
from backupctl.repository.keys import MAX_KEYS, add_key, find_key, list_keys, plan_removal, remove_key
from backupctl.repository.repository import Repository
from tests.repository.engine import NOW, PASSWORD, create


def add(repository: Repository, password: str) -> str:
    return add_key(repository, password, scrypt_n=2).id


def opens(repository: Repository, password: str) -> bool:
    try:
        return Repository.open(repository.store, password, clock=FakeClock(NOW)).id == repository.id
    except WrongKeyError:
        return False


def test_every_key_opens_the_same_repository_and_the_list_tells_which() -> None:
    repository = create()
    made = add(repository, "second")
    assert opens(repository, PASSWORD)
    assert opens(repository, "second")
    keys = list_keys(repository, "second")
    assert [key.opens for key in keys if key.id == made] == [True]
    assert [key.opens for key in keys if key.id != made] == [False]
    facts = keys[0].facts
    assert facts is not None
    assert facts.created == NOW


@pytest.mark.parametrize("password", ["", " leading", "trailing\n"])
def test_a_password_that_others_would_read_differently_is_refused(password: str) -> None:
    repository = create()
    with pytest.raises(UsageError, match="white space"):
        add(repository, password)
    assert len(list_keys(repository)) == 1


def test_the_same_password_is_not_added_twice_and_there_is_an_end_to_it() -> None:
    repository = create()
    with pytest.raises(UsageError, match="already"):
        add(repository, PASSWORD)
    for number in range(MAX_KEYS - 1):
        add(repository, f"password {number}")
    with pytest.raises(UsageError, match=f"no more than {MAX_KEYS}"):
        add(repository, "one too many")


def test_the_last_key_and_the_one_in_use_stay() -> None:
    repository = create()
    (first,) = list_keys(repository)
    with pytest.raises(UsageError, match="the only one"):
        plan_removal(repository, first.id, password=PASSWORD)
    second = add(repository, "second")
    with pytest.raises(UsageError, match="is the one in use"):
        plan_removal(repository, first.id, password=PASSWORD)
    with pytest.raises(UsageError, match="opens no key other"):
        plan_removal(repository, first.id, password=PASSWORD, proof="wrong")
    with pytest.raises(UsageError, match="opens no key other"):
        plan_removal(repository, first.id, password=PASSWORD, proof=PASSWORD)
    assert len(list_keys(repository)) == 2
    planned = plan_removal(repository, first.id[:8], password=PASSWORD, proof="second")
    assert (planned.in_use, planned.proven.id) == (True, second)
    assert opens(repository, PASSWORD)  # a plan changes nothing
    remove_key(repository, planned)
    assert not opens(repository, PASSWORD)
    assert opens(repository, "second")


def test_a_key_that_is_not_in_use_goes_without_further_proof() -> None:
    repository = create()
    second = add(repository, "second")
    remove_key(repository, plan_removal(repository, second, password=PASSWORD))
    assert opens(repository, PASSWORD)
    assert not opens(repository, "second")


def test_a_key_of_another_repository_or_a_damaged_one_proves_nothing() -> None:
    repository = create()
    (first,) = list_keys(repository)
    foreign = encode_keyfile(Keys.random(), "foreign", created=NOW, username="u", hostname="h", n=2)
    repository.store.put(f"keys/{hashlib.sha256(foreign).hexdigest()}", foreign)
    with pytest.raises(UsageError, match="opens no key other"):
        plan_removal(repository, first.id, password=PASSWORD, proof="foreign")
    repository.store.delete(f"keys/{hashlib.sha256(foreign).hexdigest()}")
    repository.store.put("keys/" + "ab" * 32, b"rubbish")
    assert [key.damage != "" for key in list_keys(repository, PASSWORD)] == [False, True]
    with pytest.raises(UsageError, match="the only one"):
        plan_removal(repository, first.id, password=PASSWORD)
    remove_key(repository, plan_removal(repository, "abab", password=PASSWORD))  # what is damaged may go
    assert opens(repository, PASSWORD)


def test_nothing_is_removed_when_the_proven_key_went_meanwhile() -> None:
    repository = create()
    (first,) = list_keys(repository)
    second = add(repository, "second")
    planned = plan_removal(repository, first.id, password=PASSWORD, proof="second")
    repository.store.delete(f"keys/{second}")
    with pytest.raises(UsageError, match="nothing was removed"):
        remove_key(repository, planned)
    assert opens(repository, PASSWORD)


def test_a_key_is_named_by_how_it_begins_when_that_is_one() -> None:
    repository = create()
    keys = list_keys(repository)
    assert find_key(keys, keys[0].id[:6]) == keys[0]
    for prefix in ("", "zz"):
        with pytest.raises(NoSuchError):
            find_key(keys, prefix)
