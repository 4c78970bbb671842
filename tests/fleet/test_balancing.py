"""Which replica gets texts next."""

from embedfleet.fleet.balancing import Load, least_outstanding


def load(name: str, outstanding: int, *, window: int = 100, last_resort: bool = False) -> Load:
    return Load(name, window, 50, outstanding, last_resort)


def picked(*loads: Load, tokens: int = 10) -> str | None:
    chosen = least_outstanding(loads, tokens)
    return chosen.replica if chosen else None


def test_the_replica_with_the_fewest_outstanding_tokens_is_picked() -> None:
    """Tokens, not texts or calls, are what work is."""
    assert picked(load("a", 60), load("b", 20), load("c", 40)) == "b"


def test_a_full_replica_gets_nothing() -> None:
    """The text stays in the queue, from where any replica can still take it."""
    assert picked(load("a", 95), load("b", 100)) is None


def test_a_text_longer_than_the_window_waits_for_half_of_it() -> None:
    """Then its turn is next, and the engine need not run dry before it comes."""
    assert picked(load("a", 51), tokens=1000) is None
    assert picked(load("a", 50), tokens=1000) == "a"


def test_a_suspect_is_used_only_when_nothing_else_can_be() -> None:
    """Better a doubtful replica than none."""
    suspect = load("s", 0, last_resort=True)

    assert picked(suspect, load("a", 90)) == "a"
    assert picked(suspect, load("a", 100)) is None  # it has room soon
    assert picked(suspect) == "s"
    assert picked() is None
