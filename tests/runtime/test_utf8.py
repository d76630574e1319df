"""What is streamed is valid UTF-8 and joins to the whole, in every script, whatever cuts the answer."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.session import Session
from tests.runtime.toy import END

CJK = st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), max_size=8)
EMOJI = st.sampled_from(["👩‍🚀", "👍🏽", "🇩🇪", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "❤️", "🦜", "👨‍👩‍👧‍👦"])
COMBINING = st.sampled_from(["e\u0301", "a\u0308\u0323", "क्षि", "ถึ้", "한", "\u1112\u1161\u11ab", "\u200f\u05e9\u05c1"])
TEXTS = st.lists(st.one_of(CJK, EMOJI, COMBINING, st.text(max_size=5)), max_size=6).map("".join)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS, stop=st.one_of(st.none(), EMOJI, COMBINING), cut=st.integers(1, 60))
@example(text="héllo 🌍 中文 e\u0301", stop="🌍", cut=60)
@example(text="👩‍🚀", stop=None, cut=3)
@example(text="中" * 20, stop=None, cut=59)
def test_pieces_are_whole_characters_and_join(toy_session: Session, text: str, stop: str | None, cut: int) -> None:
    """One token per byte: every character of more than one byte is cut by tokens, the last by ``max_tokens``."""
    ids = toy_session._processor.text.encode(text)
    tokens = iter([*ids, END])
    options = GenerationOptions(max_tokens=cut, stop=(stop,) if stop else ())
    with patch("palmtop.runtime.decoding.generate.Sampler.draw", lambda *_: next(tokens)):
        pieces = list(toy_session.chat([{"role": "user", "content": "hi"}], options=options))
    reply = pieces[-1].reply
    assert reply is not None
    assert "".join(piece.text for piece in pieces) == reply.text
    for piece in pieces:
        piece.text.encode("utf-8")
    if reply.ended_by == "eos":
        assert reply.text == text
    elif reply.ended_by == "stop_string":
        assert stop is not None
        assert reply.text == text.partition(stop)[0]
    else:
        whole = toy_session._processor.text.decode(ids[:cut])
        assert reply.text == whole
    if "\ufffd" not in text:  # half a character may only show at the very end, as the decoder shows it
        assert "\ufffd" not in "".join(piece.text for piece in pieces[:-1])
