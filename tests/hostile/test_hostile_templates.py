"""Chat templates that want all the time or memory there is, and what must go on working beside them."""

from __future__ import annotations

import time

import pytest

from palmtop.errors import BundleError, InputError
from palmtop.runtime.processor.chat_template import ChatTemplate

MESSAGES = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
NEST = "{% set n = namespace(x=['a']) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
THRICE = "{% for a in X %}{% for b in X %}{% for c in X %}{% endfor %}{% endfor %}{% endfor %}"
HOSTILE = {
    "long text": "{{ 'a' * 10**10 }}",
    "long list": "{{ ([0] * 10**10)|length }}",
    "large number": "{{ 10 ** (10 ** 8) }}",
    "growing number": "{% set n = namespace(x=3) %}{% for i in range(90000) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "doubling by ~": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubling by +": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "nested lists": NEST + "{{ n.x }}",
    "nested lists as json": NEST + "{{ n.x|tojson }}",
    "padded": "{{ 'a'.ljust(10**10) }}",
    "centred": "{{ 'a'|center(10**10) }}",
    "indented": "{{ messages|tojson(indent=10**9) }}",
    "formatted": "{{ '%9999999999d' % 1 }}",
    "formatted by a filter": "{{ '%9999999999d'|format(1) }}",
    "replaced": "{% set a = 'ab' * 1000000 %}{{ a.replace('a', a) }}",
    "joined": "{% set a = 'ab' * 1000000 %}{{ a.join(a) }}",
    "loops in loops": THRICE.replace("X", "range(9999)"),
    "loops over text": "{% set t = 'a' * 9999 %}" + THRICE.replace("X", "t"),
    "much output": "{% for a in range(99999) %}{{ 'a' * 99999 }}{% endfor %}",
    "macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "macro twice": "{% macro f(n) %}{% if n < 90 %}{{ f(n + 1) }}{{ f(n + 1) }}{% endif %}{% endmacro %}{{ f(0) }}",
    "recursive loop": "{% for a in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "lipsum": "{{ lipsum(n=10**9) }}",
    "itself": "{% include self %}",
    "private": "{{ ''.__class__.__mro__ }}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_it_is_refused_soon(source: str) -> None:
    started = time.perf_counter()
    with pytest.raises((InputError, BundleError), match=r"chat_template\.jinja"):
        ChatTemplate(source).render(MESSAGES)
    assert time.perf_counter() - started < 60  # not a measurement: without limits it would take hours


@pytest.mark.parametrize("source", ["{{" + "(" * 5000 + "1" + ")" * 5000 + "}}", "{% for %}", "{{ 'a"])
def test_what_cannot_be_compiled_is_refused(source: str) -> None:
    with pytest.raises(BundleError, match=r"chat_template\.jinja"):
        ChatTemplate(source)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ m.content }}{% endfor %}", "1/2hello2/2hi"),
        (
            "{% for m in messages %}{{ m.role ~ ':' ~ 1 }}{% if not loop.last %},{% endif %}{% endfor %}",
            "user:1,assistant:1",
        ),
        ("{% for m in messages|selectattr('role', 'equalto', 'user') %}{{ m.content|upper }}{% endfor %}", "HELLO"),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}", "a1"),
        ("{{ messages|map(attribute='role')|join(', ') }}", "user, assistant"),
        ("{{ '%s-%s' % ('a', 1) }}{{ 7 % 4 }}{{ 2 ** 3 }}{{ '-' * 3 }}", "a-138---"),
        ("{{ messages[0]|tojson }}", '{"role": "user", "content": "hello"}'),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f('a') }}{{ f(messages[0].content) }}", "<a><hello>"),
        ("{% for m in [] %}{% else %}none{% endfor %}{{ messages[:1]|length }}", "none1"),
    ],
)
def test_ordinary_templates_are_rendered_as_before(source: str, text: str) -> None:
    assert ChatTemplate(source).render(MESSAGES) == text
