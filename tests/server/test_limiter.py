import pytest

from patchify.server.limiter import MOST_ADDRESSES, RateLimiter


class Clock:
    def __init__(self):
        self.time = 1000.0

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def limiter(clock):
    return RateLimiter(burst=3, every=10, clock=clock)


def test_so_many_attempts_are_free_at_once_and_then_one_now_and_then(limiter, clock):
    assert [limiter.take("192.0.2.1") for _ in range(4)] == [0, 0, 0, 10]
    clock.time += 4
    assert limiter.wait("192.0.2.1") == limiter.take("192.0.2.1") == 6
    clock.time += 6
    assert limiter.take("192.0.2.1") == 0
    assert limiter.take("192.0.2.1") == 10


def test_after_a_long_pause_no_more_than_the_burst_is_free(limiter, clock):
    limiter.take("192.0.2.1")
    clock.time += 10_000
    assert [limiter.take("192.0.2.1") for _ in range(4)] == [0, 0, 0, 10]


def test_to_ask_takes_nothing(limiter):
    assert {limiter.wait("192.0.2.1") for _ in range(10)} == {0}


def test_one_address_does_not_use_up_the_attempts_of_another(limiter):
    for _ in range(4):
        limiter.take("192.0.2.1")
    assert limiter.wait("192.0.2.2") == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8::1", "2001:db8::ffff:1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("unix:/socket", "unix:/socket"),
    ],
)
def test_addresses_of_one_customer_count_as_one(limiter, one, other):
    for _ in range(3):
        limiter.take(one)
    assert limiter.wait(other) == 10


def test_neighbouring_networks_count_as_two(limiter):
    for _ in range(3):
        limiter.take("2001:db8::1")
    assert limiter.wait("2001:db8:0:1::1") == 0


def test_addresses_without_number_do_not_fill_the_memory(limiter):
    for number in range(MOST_ADDRESSES + 100):
        limiter.take(f"10.0.{number // 256}.{number % 256}")
    assert len(limiter._full) == MOST_ADDRESSES
    assert "10.0.0.0" not in limiter._full
