"""What is read again and what is not, on a decoder that only remembers."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from palmtop.errors import InputError, PalmtopError
from palmtop.runtime.decoding.cached_sequence import CachedSequence, CancelledError
from palmtop.runtime.decoding.decoder import DecoderInputs, MediaSpan, TokenSequence

CONTEXT, HIDDEN = 64, 4
OFF = np.zeros(2, np.float32)
VISION = np.array([1, 0], np.float32)


class FakeDecoder:
    """Holds ids; its logits name the last of them. Fails on token 13."""

    def __init__(self) -> None:
        self.held: list[int] = []
        self.appended: list[list[int]] = []
        self.closed = False
        self.inputs = DecoderInputs(
            media_index=np.zeros(CONTEXT, np.int64),
            media_features=np.zeros((8, HIDDEN), np.float32),
            adapter_gates=np.zeros(2, np.float32),
            rope_long=np.zeros(1, np.bool_),
        )

    @property
    def token_count(self) -> int:
        return len(self.held)

    def append(self, ids: NDArray[np.int32]) -> None:
        self.held += ids.tolist()  # as genai: in the sequence before the graph has run
        if 13 in ids:
            raise RuntimeError("kernel failed")
        self.appended.append(ids.tolist())

    def logits(self) -> NDArray[np.float32]:
        return np.full(8, np.nan if self.held[-1] == 99 else 0, np.float32)

    def draft_logits(self, count: int) -> NDArray[np.float32]:
        assert count == len(self.appended[-1])
        return np.array([np.full(8, token, np.float32) for token in self.held[-count:]])

    def rewind_to(self, count: int) -> None:
        self.held = self.held[:count]

    def close(self) -> None:
        self.closed = True


class Shelf:
    """Opens fake decoders and keeps them in view."""

    def __init__(self) -> None:
        self.opened: list[FakeDecoder] = []

    def open(self) -> FakeDecoder:
        self.opened.append(FakeDecoder())
        return self.opened[-1]

    @property
    def last(self) -> FakeDecoder:
        return self.opened[-1]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def track(shelf: Shelf) -> CachedSequence:
    return CachedSequence(shelf.open, context=CONTEXT, original_context=20, chunk=4)


def passage(ids: list[int], media: tuple[MediaSpan, ...] = ()) -> TokenSequence:
    places = np.zeros(len(ids), np.int64)
    row = 1
    for span in media:
        places[span.start : span.start + span.rows] = np.arange(row, row + span.rows)
        row += span.rows
    return TokenSequence(np.array(ids, np.int32), places, media)


def never() -> bool:
    return False


def test_first_passage_is_read_in_chunks(track: CachedSequence, shelf: Shelf) -> None:
    assert track.prefill(passage([1, 2, 3, 4, 5, 6]), OFF, never) == (0, None)
    assert shelf.last.appended == [[1, 2, 3, 4], [5, 6]]


def test_only_what_is_new_is_read(track: CachedSequence, shelf: Shelf) -> None:
    track.prefill(passage([1, 2, 3]), OFF, never)
    assert track.prefill(passage([1, 2, 3, 4, 5]), OFF, never) == (3, None)
    assert shelf.last.appended[-1] == [4, 5]


def test_an_edited_passage_is_read_from_the_edit_on(track: CachedSequence, shelf: Shelf) -> None:
    track.prefill(passage([1, 2, 3, 4]), OFF, never)
    assert track.prefill(passage([1, 2, 7]), OFF, never) == (2, None)
    assert shelf.last.held == [1, 2, 7]


def test_a_passage_that_is_held_whole_gives_its_last_token_again(track: CachedSequence, shelf: Shelf) -> None:
    track.prefill(passage([1, 2, 3, 4]), OFF, never)
    assert track.prefill(passage([1, 2, 3]), OFF, never) == (2, None)
    assert shelf.last.held == [1, 2, 3]


def test_other_gates_read_everything_again_and_say_so(track: CachedSequence, shelf: Shelf) -> None:
    track.prefill(passage([1, 2, 3]), OFF, never)
    assert track.prefill(passage([1, 2, 3, 4]), VISION, never) == (0, "adapters")
    assert shelf.last.inputs.adapter_gates is not None
    assert shelf.last.inputs.adapter_gates.tolist() == [1, 0]


def test_crossing_the_rope_boundary_reads_everything_again(track: CachedSequence, shelf: Shelf) -> None:
    track.prefill(passage(list(range(100, 119))), OFF, never)
    assert track.step(7, never) is None  # 20 tokens: still short
    assert track.step(8, never) == "rope"
    rope_long = shelf.last.inputs.rope_long
    assert rope_long is not None and rope_long[0]
    assert len(shelf.last.held) == 21
    assert track.step(9, never) is None
    assert track.prefill(passage(list(range(100, 110))), OFF, never) == (0, "rope")
    assert not rope_long[0]


def test_another_image_at_the_same_place_is_read_again(track: CachedSequence, shelf: Shelf) -> None:
    ids = [1, 50, 50, 2]
    one = passage(ids, (MediaSpan(1, 2, "one"),))
    two = passage(ids, (MediaSpan(1, 2, "two"),))
    track.prefill(one, OFF, never)
    assert track.prefill(one, OFF, never) == (3, None)
    assert track.prefill(two, OFF, never) == (1, None)
    assert shelf.last.inputs.media_index is not None
    assert shelf.last.inputs.media_index[:4].tolist() == [0, 1, 2, 0]


def test_features_are_asked_for_once(track: CachedSequence, shelf: Shelf) -> None:
    asked: list[int] = []

    def features(number: int) -> NDArray[np.float32]:
        asked.append(number)
        return np.full((2, HIDDEN), number + 1, np.float32)

    first, second = MediaSpan(1, 2, "one"), MediaSpan(4, 2, "two")
    track.write_media(passage([1, 50, 50, 2], (first,)), features)
    track.write_media(passage([1, 50, 50, 2, 50, 50], (first, second)), features)
    assert asked == [0, 1]
    buffer = shelf.last.inputs.media_features
    assert buffer is not None
    assert buffer[:5, 0].tolist() == [1, 1, 2, 2, 0]
    track.write_media(passage([1, 50, 50], (MediaSpan(1, 2, "three"),)), features)
    assert asked == [0, 1, 0]


def test_more_rows_than_places_are_refused_with_numbers(track: CachedSequence) -> None:
    with pytest.raises(InputError, match="take 9 rows of features, this session has 8 places"):
        track.write_media(passage([1] * 12, (MediaSpan(1, 9, "big"),)), lambda _: np.zeros((9, HIDDEN), np.float32))


def test_a_passage_longer_than_the_context_is_refused(track: CachedSequence) -> None:
    with pytest.raises(InputError, match="65 tokens, the session's context is 64"):
        track.prefill(passage([1] * 65), OFF, never)


def test_cancelled_prefill_keeps_what_was_read(track: CachedSequence, shelf: Shelf) -> None:
    answers = iter([False, False, True])
    with pytest.raises(CancelledError):
        track.prefill(passage(list(range(100, 112))), OFF, lambda: next(answers))
    assert track.ids.tolist() == list(range(100, 108))
    assert track.prefill(passage(list(range(100, 112))), OFF, never) == (8, None)


def test_after_a_native_failure_a_new_decoder_is_opened(track: CachedSequence, shelf: Shelf) -> None:
    track.prefill(passage([1, 2, 3]), OFF, never)
    with pytest.raises(RuntimeError, match="kernel failed"):
        track.prefill(passage([1, 2, 13]), OFF, never)
    assert shelf.opened[0].closed
    assert track.prefill(passage([1, 2, 4]), OFF, never) == (0, None)
    assert len(shelf.opened) == 2


def test_logits_that_are_not_numbers_are_refused(track: CachedSequence) -> None:
    track.prefill(passage([99]), OFF, never)
    with pytest.raises(PalmtopError, match="not finite"):
        track.logits()


@pytest.fixture
def guessing(shelf: Shelf) -> CachedSequence:
    return CachedSequence(shelf.open, context=CONTEXT, original_context=20, chunk=8, draft_rows=5)


def test_guesses_that_come_true_cost_no_step(guessing: CachedSequence, shelf: Shelf) -> None:
    guessing.prefill(passage([1, 2]), OFF, never)
    guessing.step(3, never, [4, 5, 6])
    assert (guessing.ids.tolist(), guessing.logits()[0]) == ([1, 2, 3], 3)
    assert guessing.expects(4) and not guessing.expects(5)
    assert guessing.step(4, never) is None
    assert guessing.step(5, never) is None
    assert (guessing.ids.tolist(), guessing.logits()[0]) == ([1, 2, 3, 4, 5], 5)
    assert shelf.last.appended == [[1, 2], [3, 4, 5, 6]]


def test_a_wrong_guess_is_taken_back_with_all_behind_it(guessing: CachedSequence, shelf: Shelf) -> None:
    guessing.prefill(passage([1, 2]), OFF, never)
    guessing.step(3, never, [4, 5, 6])
    guessing.step(4, never)
    guessing.step(7, never, [8])
    assert shelf.last.held == [1, 2, 3, 4, 7, 8]
    assert (guessing.ids.tolist(), guessing.logits()[0]) == ([1, 2, 3, 4, 7], 7)


def test_the_next_passage_keeps_what_it_shares_with_guesses(guessing: CachedSequence, shelf: Shelf) -> None:
    guessing.prefill(passage([1, 2]), OFF, never)
    guessing.step(3, never, [4, 5])
    assert guessing.prefill(passage([1, 2, 3, 4, 6]), OFF, never) == (4, None)
    assert shelf.last.held == [1, 2, 3, 4, 6]
    assert shelf.last.appended[-1] == [4, 6]


def test_no_token_is_read_alone_where_guesses_may_be_read(
    guessing: CachedSequence, track: CachedSequence, shelf: Shelf
) -> None:
    """A step of one token rounds otherwise than a longer one."""
    guessing.prefill(passage(list(range(100, 109))), OFF, never)  # chunks of 8: one is left
    assert shelf.last.appended == [list(range(100, 107)), [107, 108]]
    guessing.step(9, never)
    assert shelf.last.appended[-1] == [108, 9]
    assert shelf.last.held == [*range(100, 109), 9]
    assert guessing.prefill(passage([5]), OFF, never) == (0, None)
    assert shelf.last.appended[-1] == [5]  # there is none before it
    track.prefill(passage([1, 2]), OFF, never)
    track.step(3, never)
    assert shelf.last.appended == [[1, 2], [3]]  # an ordinary bundle is read as ever


def test_guesses_stay_within_step_context_and_rope(guessing: CachedSequence, shelf: Shelf) -> None:
    guessing.prefill(passage([1, 2]), OFF, never)
    assert guessing.draft_room() == 4
    guessing.prefill(passage(list(range(100, 117))), OFF, never)  # 17, 18 with the next one, of 20
    assert guessing.draft_room() == 2
    guessing.step(1, never, [2, 3])
    guessing.step(2, never)
    guessing.step(3, never)
    assert guessing.draft_room() == 0  # the next token reads everything again, for the longer factors
    assert guessing.step(4, never) == "rope"
    assert guessing.draft_room() == 4
    guessing.prefill(passage(list(range(100, 162))), OFF, never)
    assert guessing.draft_room() == 1  # 62, 63 with the next one, of 64


def test_a_failure_while_guesses_are_read_loses_no_text(guessing: CachedSequence, shelf: Shelf) -> None:
    guessing.prefill(passage([1, 2]), OFF, never)
    with pytest.raises(RuntimeError, match="kernel failed"):
        guessing.step(3, never, [13])
    assert shelf.opened[0].closed
    assert guessing.prefill(passage([1, 2, 3]), OFF, never) == (0, None)
    assert not guessing.expects(13)


def test_a_turn_that_ends_among_guesses_can_be_cancelled_and_go_on(guessing: CachedSequence, shelf: Shelf) -> None:
    guessing.prefill(passage([1, 2]), OFF, never)
    guessing.step(3, never, [4, 5])
    with pytest.raises(CancelledError):
        guessing.step(9, lambda: True, [8])
    assert guessing.ids.tolist() == [1, 2, 3]
    assert guessing.prefill(passage([1, 2, 3, 4]), OFF, never) == (3, None)


def test_a_prompts_last_token_is_read_with_the_one_before_it(shelf: Shelf, track: CachedSequence) -> None:
    ids = list(range(100, 104))
    track.prefill(passage(ids), OFF, never)
    track.prefill(passage(ids), OFF, never)
    assert shelf.last.appended == [ids, ids[-2:]]


def test_what_was_read_alone_is_read_again_only_where_asked(shelf: Shelf, track: CachedSequence) -> None:
    ids = list(range(100, 104))
    track.prefill(passage(ids), OFF, never)
    for token in (7, 8):
        track.step(token, never)
    longer = passage([*ids, 7, 8, 9, 10])
    track.prefill(longer, OFF, never)
    assert shelf.last.appended == [ids, [7], [8], [9, 10]]
    track.prefill(longer, OFF, never, as_new=True)
    assert shelf.last.appended[4:] == [[7, 8, 9, 10]]
    track.prefill(longer, OFF, never, as_new=True)
    assert shelf.last.appended[5:] == [[9, 10]]
