from cri_proxy.lib import suggestions


def test_a_slip_of_the_finger_finds_the_word_that_was_meant():
    assert suggestions.nearest("chek", ["serve", "check", "version"]) == "check"


def test_a_word_that_is_like_nothing_known_gets_no_suggestion():
    assert suggestions.nearest("xyzzy", ["serve", "check"]) is None
    assert suggestions.hint("xyzzy", ["serve", "check"]) == ""


def test_a_hint_can_be_put_behind_a_refusal():
    assert suggestions.hint("serv", ["serve"]) == "; did you mean serve?"
