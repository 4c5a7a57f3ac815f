import pytest

from patchify.server.rates import Rate, bandwidth, requests


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("120/minute", Rate(120, 60)),
        ("1/second", Rate(1, 1)),
        ("1000/6 hours", Rate(1000, 6 * 3600)),
        ("5/2days", Rate(5, 2 * 86400)),
    ],
)
def test_requests_in_a_time(text, rate):
    assert requests(text) == rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("2 GiB/hour", Rate(2 * 1024**3, 3600)),
        ("500MiB/10 minutes", Rate(500 * 1024**2, 600)),
        ("1 TiB/day", Rate(1024**4, 86400)),
        ("64 KiB/second", Rate(64 * 1024, 1)),
    ],
)
def test_bytes_in_a_time(text, rate):
    assert bandwidth(text) == rate


@pytest.mark.parametrize("parse", [requests, bandwidth])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "120",
        "0/minute",
        "-1/minute",
        "1.5/minute",
        "120/fortnight",
        "1/0 hours",
        "0 MiB/hour",
        "2 GB/hour",
        "२/hour",
        "120/minute; 1000/hour",
        " 120/minute",
        "120/minute\n",
        120,
        True,
        None,
    ],
)
def test_what_is_no_rate_says_what_one_is(parse, text):
    with pytest.raises(ValueError, match=r"is not a number of (requests|bytes) in a time, such as "):
        parse(text)


def test_neither_is_the_other():
    with pytest.raises(ValueError, match="bytes"):
        bandwidth("120/minute")
    with pytest.raises(ValueError, match="requests"):
        requests("2 GiB/hour")
