import pytest

from tests.benchmarks.fleet import HOURS, INTERVAL, simulate


@pytest.mark.slow
def test_a_hundred_thousand_clients_follow_a_schedule(show):
    result = simulate(100_000)
    show(result.table())
    for hour in (23, 71, HOURS - 1):  # each client has asked since the last step
        assert abs(result.reached[hour] - result.wanted[hour]) < 1
    assert {result.wanted[hour] for hour in (23, 71, HOURS - 1)} == {10, 50, 100}
    assert result.skipped > 1900
    assert result.again == 0
    # All start in the same second, and yet no later hour has much more than its share.
    share = result.clients / INTERVAL
    assert result.asked[0] > result.clients
    assert max(result.asked[hour] for hour in range(1, HOURS)) < 1.3 * share
