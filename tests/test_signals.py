import logging

from patchify import signals


def test_a_receiver_that_raises_is_logged_and_keeps_nobody_from_the_rest(caplog):
    sender, told = object(), []

    def broken(sender, **facts):
        raise RuntimeError("broken on purpose")

    def working(sender, **facts):
        told.append((sender, facts))

    with signals.version_checked.connected_to(broken), signals.version_checked.connected_to(working):
        signals.emit(signals.version_checked, sender, version="1.0.0")
    assert told == [(sender, {"version": "1.0.0"})]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "version-checked" in record.getMessage()
    assert "broken on purpose" in str(record.exc_info[1])


def test_a_receiver_hears_only_of_the_sender_it_asked_for():
    one, other, told = object(), object(), []

    def receiver(sender, **facts):
        told.append(sender)

    with signals.hash_sent.connected_to(receiver, sender=one):
        signals.emit(signals.hash_sent, other, version="1.0.0")
        signals.emit(signals.hash_sent, one, version="1.0.0")
    assert told == [one]
