"""Errors on their way between processes."""

import inspect

import pytest

from cri_proxy import errors
from cri_proxy.lib import codec

CLASSES = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, errors.CriProxyError) and each is not errors.CriProxyError
]


@pytest.mark.parametrize("kind", CLASSES)
def test_error_comes_back_as_it_was_sent(kind):
    wire = codec.encode(errors.to_wire(kind("what was tried, and „what to do“")))
    back = errors.of_wire(codec.decode(wire, errors.ErrorRecord))

    assert type(back) is kind
    assert str(back) == "what was tried, and „what to do“"


@pytest.mark.parametrize("kind", ["", "CriProxyError", "KeyError", "SystemExit", "Final"])
def test_unknown_kind_is_a_fault_of_our_own(kind):
    back = errors.of_wire(errors.ErrorRecord(kind, "what happened"))

    assert type(back) is errors.InternalFault
    assert str(back) == "what happened"


def test_error_without_a_class_for_the_caller_is_a_fault_of_our_own():
    assert type(errors.of_wire(errors.to_wire(errors.CriProxyError("x")))) is errors.InternalFault


@pytest.mark.parametrize("kind", CLASSES)
def test_class_says_what_the_caller_can_do(kind):
    assert kind.__doc__
    assert ": " in kind.__doc__


@pytest.mark.parametrize("kind", CLASSES)
def test_subclass_crosses_as_the_nearest_class_that_is_known(kind):
    class Narrower(kind):
        """Known where it is raised only."""

    class Narrowest(Narrower):
        """Still narrower."""

    back = errors.of_wire(errors.to_wire(Narrowest("what happened")))

    assert type(back) is kind
    assert str(back) == "what happened"
