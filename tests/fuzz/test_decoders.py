"""Whatever bytes a repository holds, a decoder reads them or raises one of our errors."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from backupctl.errors import UserError
from backupctl.repository.format import FormatError
from tests.fuzz.decoders import DECODERS, PASSWORD, Decoder
from tests.fuzz.mutations import NASTY_JSON, spoil_bytes, spoil_json
from tests.soak import rounds

EXPECTED = (FormatError, UserError)
SETTINGS = settings(
    max_examples=rounds(60, 5000), deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
by_name = pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS.keys())


def refused(decoder: Decoder, data: bytes) -> bool:
    try:
        decoder.read(data)
    except EXPECTED as error:
        assert len(str(error)) < 2000, "an error is a sentence, not a dump of the object"
        return True
    return False


@by_name
def test_real_objects_are_read(decoder: Decoder) -> None:
    for seed in decoder.seeds:
        if decoder.name != "sealed keys":  # its seed is one field short, so that no key stands in the tests
            decoder.read(seed)


@by_name
@SETTINGS
@given(seed=st.integers(0, 2**64 - 1))
def test_spoilt_bytes(decoder: Decoder, seed: int) -> None:
    random = Random(seed)
    data, other = random.choice(decoder.seeds), random.choice(decoder.seeds)
    refused(decoder, spoil_bytes(random, data, other))


@pytest.mark.parametrize(
    "decoder", [one for one in DECODERS.values() if one.is_json], ids=[n for n, one in DECODERS.items() if one.is_json]
)
@SETTINGS
@given(seed=st.integers(0, 2**64 - 1))
def test_spoilt_fields(decoder: Decoder, seed: int) -> None:
    random = Random(seed)
    seeds = [one for one in decoder.seeds if one[:1] == b"{"]
    refused(decoder, spoil_json(random, random.choice(seeds)))


@by_name
@SETTINGS
@given(data=st.binary(max_size=300))
@example(data=b"")
def test_any_bytes(decoder: Decoder, data: bytes) -> None:
    refused(decoder, data)


@by_name
def test_absurd_json_in_place_of_the_object(decoder: Decoder) -> None:
    for text in NASTY_JSON:
        refused(decoder, text.encode("utf-8", "surrogatepass"))


def test_a_password_is_in_no_error() -> None:
    for seed in range(200):
        try:
            DECODERS["key file"].read(spoil_json(Random(seed), DECODERS["key file"].seeds[0]))
        except EXPECTED as error:
            assert PASSWORD not in str(error)
