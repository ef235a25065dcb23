import pytest

from cri_proxy.lib import redaction


def test_user_and_password_of_every_url_in_a_text_are_hidden():
    text = "tried https://me:pa$$word@cache.example/x and http://token@[::1]:80/"

    assert redaction.text(text) == "tried https://***@cache.example/x and http://***@[::1]:80/"


def test_a_text_without_credentials_stays_as_it_is():
    text = "mail me@example.com about https://cache.example/path@2?a=b"

    assert redaction.text(text) is text or redaction.text(text) == text


@pytest.mark.parametrize("name", ["token", "floxhub_token", "password", "Authorization", "secrets"])
def test_a_name_that_ends_in_a_word_for_secrets_is_secret(name):
    assert redaction.is_secret(name)


@pytest.mark.parametrize("name", ["token_file", "tokens_used_count", "reference", "secretary"])
def test_a_name_that_only_speaks_of_secrets_is_not(name):
    assert not redaction.is_secret(name)
