"""A bank of descriptors: what is merged, what is protected, and that counts add up."""

import numpy as np
import pytest

from counterview.tracking.memory import Bank


def unit(*values):
    return (np.array(values) / np.linalg.norm(values)).astype(np.float32)


def test_the_closest_neighbours_are_merged_by_their_counts():
    bank = Bank(3)
    looks = [unit(1, 0), unit(0, 1), unit(0.1, 1), unit(-1, 0)]
    for look in looks:
        bank.add(look)
    assert bank.counts.tolist() == [1, 2, 1]
    mean = looks[1] + looks[2]
    np.testing.assert_allclose(bank.looks, [looks[0], mean / np.linalg.norm(mean), looks[3]], atol=1e-6)
    bank.add(unit(-1, 0.01))  # the last two are alike now
    assert bank.counts.tolist() == [1, 2, 2]


def test_an_entry_counts_for_the_frames_it_stands_for():
    bank = Bank(2)
    for _ in range(9):
        bank.add(unit(1, 0))
    bank.add(unit(0, 1))
    bank.add(unit(1, 1))  # nearest to either; the first pair has distance 2, the second less
    assert int(bank.counts.sum()) == 11
    assert len(bank) == 2


def test_what_a_user_gave_stays_as_it_is():
    bank = Bank(3)
    given = unit(1, 2, 3)
    bank.add(given, protected=True)
    rng = np.random.default_rng(0)
    for _ in range(50):
        look = rng.normal(size=3)
        bank.add((look / np.linalg.norm(look)).astype(np.float32))
    assert np.array_equal(bank.looks[0], given)
    assert int(bank.counts.sum()) == 51


def test_a_full_bank_of_protected_entries_does_not_grow():
    bank = Bank(4)
    for angle in np.linspace(0, 3, 20):
        bank.add(unit(np.cos(angle), np.sin(angle)), protected=True)
    assert len(bank) == 4
    assert int(bank.counts.sum()) == 20


def test_first_in_first_out_drops_the_oldest_that_is_free():
    bank = Bank(3, "fifo")
    looks = [unit(1, k) for k in range(5)]
    bank.add(looks[0], protected=True)
    for look in looks[1:]:
        bank.add(look)
    np.testing.assert_allclose(bank.looks, [looks[0], looks[3], looks[4]], atol=1e-6)


def test_similarity_is_the_cosine():
    bank = Bank(4)
    assert bank.similarity(np.eye(2, dtype=np.float32)).shape == (0, 2)
    bank.add(unit(1, 0))
    bank.add(unit(1, 1))
    np.testing.assert_allclose(bank.similarity(np.eye(2, dtype=np.float32)), [[1, 0], [0.5**0.5] * 2], atol=1e-6)


@pytest.mark.parametrize("compression", ["merge", "fifo"])
def test_a_restored_bank_goes_on_alike(compression):
    rng = np.random.default_rng(1)
    looks = rng.normal(size=(30, 8)).astype(np.float32)
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    bank, other = Bank(5, compression), Bank(5, compression)
    for number, look in enumerate(looks[:17]):
        bank.add(look, protected=number % 6 == 0)
    other.restore(bank.state())
    for look in looks[17:]:
        bank.add(look)
        other.add(look)
    assert np.array_equal(bank.looks, other.looks)
    assert bank.counts.tolist() == other.counts.tolist()
