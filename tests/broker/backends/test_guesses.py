from pystrands.broker.backends.guesses import FORGOTTEN_AFTER, MAX_DELAY, Guesses


def test_each_wrong_token_of_an_origin_waits_longer_up_to_a_limit():
    guesses = Guesses()
    assert [guesses.wrong("a", 0.0) for _ in range(3)] == [0.1, 0.2, 0.4]
    assert [guesses.wrong("a", 0.0) for _ in range(2000)][-1] == MAX_DELAY


def test_another_origin_begins_at_the_beginning():
    guesses = Guesses()
    for _ in range(10):
        guesses.wrong("a", 0.0)
    assert guesses.wrong("b", 0.0) == 0.1


def test_after_a_while_it_is_forgotten_and_each_guess_renews_it():
    guesses = Guesses()
    guesses.wrong("a", 0.0)
    assert guesses.wrong("a", FORGOTTEN_AFTER) == 0.2
    assert guesses.wrong("a", FORGOTTEN_AFTER * 2) == 0.4
    assert guesses.wrong("a", FORGOTTEN_AFTER * 3 + 1) == 0.1


def test_what_is_remembered_is_bounded_and_the_longest_unheard_of_goes_first():
    guesses = Guesses(max_origins=3)
    for name in "abcadefg":
        guesses.wrong(name, 0.0)
        assert len(guesses) <= 3
    assert guesses.wrong("g", 0.0) == 0.2
    assert guesses.wrong("a", 0.0) == 0.1
