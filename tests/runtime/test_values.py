"""Options, routes, stop strings, sampling and memory plans: no model."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from palmtop.errors import BundleError, InputError, MemoryPlanError
from palmtop.runtime.bundle.genai_config import genai_config
from palmtop.runtime.bundle.manifest import Manifest, PartSpec
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.bundle.states import StateSpec
from palmtop.runtime.chat.routing import choose, mode_of, parse_adapters
from palmtop.runtime.chat.stop_strings import StopStrings
from palmtop.runtime.decoding import sampling
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.decoding.sampling import Sampler, forbid, keep_fewest, most_probable
from palmtop.runtime.memory.plan import check_encoder, check_plan, largest_context, plan_memory
from palmtop.runtime.session_options import SessionOptions, chunk_for


@pytest.fixture(scope="module")
def manifest(toy_bundle: Path) -> Manifest:
    return open_bundle(toy_bundle).manifest


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("seed", -1),
        ("stop", ("",)),
        ("stop", "END"),
    ],
)
def test_impossible_options_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"option {name}: found"):
        GenerationOptions(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["", "ort", None, 1])
def test_an_unknown_engine_is_refused(engine: Any) -> None:
    with pytest.raises(InputError, match=r"option engine: found .* expected onnxruntime or genai"):
        SessionOptions(engine=engine)


@pytest.mark.parametrize(
    ("image", "audio", "mode"),
    [(False, False, "text"), (True, False, "image"), (False, True, "audio"), (True, True, "image+audio")],
)
def test_modes_have_the_manifests_names(image: bool, audio: bool, mode: str) -> None:
    assert mode_of(has_image=image, has_audio=audio) == mode


@pytest.mark.parametrize(
    ("mode", "gates", "projector"),
    [
        ("text", [0, 0], "speech"),
        ("image", [1, 0], "speech"),
        ("audio", [0, 1], "speech"),
        ("image+audio", [1, 0], "vision"),
    ],
)
def test_routes_follow_the_reference(manifest: Manifest, mode: str, gates: list[float], projector: str) -> None:
    choice = choose(manifest, mode)
    assert choice.gates(manifest).tolist() == gates
    assert choice.audio_projector == projector


def test_the_users_adapters_replace_the_routes(manifest: Manifest) -> None:
    assert choose(manifest, "image", {"speech": 0.5}).gates(manifest).tolist() == [0, 0.5]
    assert choose(manifest, "image", {}).gates(manifest).tolist() == [0, 0]


@pytest.mark.parametrize("weight", [math.nan, math.inf, 1e300])
def test_weights_that_are_not_finite_are_refused(manifest: Manifest, weight: float) -> None:
    with pytest.raises(InputError, match="adapter 'vision' has weight"):
        choose(manifest, "text", {"vision": weight})


def test_an_unknown_adapter_is_refused_with_those_there_are(manifest: Manifest) -> None:
    with pytest.raises(InputError, match=r"adapter 'smell' .* vision, speech"):
        choose(manifest, "text", {"smell": 1.0})


def test_merged_adapters_cannot_be_switched(manifest: Manifest) -> None:
    merged = dataclasses.replace(manifest, adapter_mode="merged")
    with pytest.raises(InputError, match="none: its mode is merged"):
        choose(merged, "text", {"vision": 1.0})


def test_adapters_on_the_command_line() -> None:
    assert parse_adapters(()) is None
    assert parse_adapters(("none",)) == {}
    assert parse_adapters(("vision", "speech=-0.5")) == {"vision": 1.0, "speech": -0.5}
    with pytest.raises(InputError, match="expected a number"):
        parse_adapters(("vision=big",))


@given(st.text("abE", max_size=30), st.lists(st.text("abE", min_size=1, max_size=3), max_size=3), st.data())
def test_stop_strings_split_anywhere_cut_at_the_first(text: str, stop: list[str], data: st.DataObject) -> None:
    stops, out, rest = StopStrings(stop), "", text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        out, rest = out + stops.feed(rest[:size]), rest[size:]
        assert not any(s in out for s in stop)
    out += stops.rest()
    ends = [text.find(s) for s in stop if s in text]
    if not ends:
        assert out == text
    else:
        assert stops.found
        assert text.startswith(out)
        assert not any(s in out for s in stop)


def logits() -> np.ndarray:
    return np.random.default_rng(5).standard_normal(50).astype(np.float32) * 3


def draws(options: GenerationOptions, count: int = 400, never: tuple[int, ...] = ()) -> list[int]:
    sampler = Sampler(options, never=never, seen=[])
    return [sampler.draw(logits()) for _ in range(count)]


def test_greedy_takes_the_largest_and_never_a_placeholder() -> None:
    best = int(logits().argmax())
    assert set(draws(GenerationOptions())) == {best}
    assert best not in draws(GenerationOptions(), never=(best,))
    assert best not in draws(GenerationOptions(temperature=1.0, seed=1), never=(best,))


def test_equal_seeds_draw_equal_tokens() -> None:
    options = GenerationOptions(temperature=1.0, seed=7)
    assert draws(options) == draws(options)
    assert draws(options) != draws(dataclasses.replace(options, seed=8))


def test_sampling_follows_the_softmax() -> None:
    drawn = np.bincount(draws(GenerationOptions(temperature=1.0, seed=0), 4000), minlength=50) / 4000
    expected = np.exp(logits() - logits().max())
    expected /= expected.sum()
    assert np.abs(drawn - expected).max() < 0.03


def test_top_k_and_top_p_limit_the_choice() -> None:
    order = np.argsort(-logits())
    assert set(draws(GenerationOptions(temperature=5.0, top_k=3, seed=0))) == set(order[:3].tolist())
    shares = np.exp(logits()[order])
    shares /= shares.sum()
    allowed = int(np.searchsorted(np.cumsum(shares), 0.7)) + 1
    assert set(draws(GenerationOptions(temperature=1.0, top_p=0.7, seed=0), 2000)) == set(order[:allowed].tolist())


def test_repetition_penalty_lowers_what_was_seen() -> None:
    best, second = np.argsort(-logits())[:2].tolist()
    sampler = Sampler(GenerationOptions(repetition_penalty=100.0), never=(), seen=[best])
    assert sampler.draw(logits()) == second
    assert sampler.draw(logits()) not in (best, second)


def wide(manifest: Manifest) -> Manifest:
    """A model whose KV cache outweighs its loading, so that the context decides."""
    states = tuple(dataclasses.replace(state, layers=tuple(range(32))) for state in manifest.decoder.states)
    return dataclasses.replace(manifest, decoder=dataclasses.replace(manifest.decoder, states=states), parts=())


def test_a_state_of_fixed_size_is_counted_once(manifest: Manifest) -> None:
    """A recurrent layer's, which no decoder has yet."""
    recurrent = StateSpec(
        name="ssm",
        input="past_ssm.%d",
        output="present_ssm.%d",
        shape=("batch", 24, 16),
        dtype="float32",
        layers=(0, 1),
        rewind="checkpoint",
    )
    decoder = dataclasses.replace(manifest.decoder, states=(*manifest.decoder.states, recurrent))
    mixed = Manifest.from_dict(json.loads(json.dumps(dataclasses.replace(manifest, decoder=decoder).to_dict())))
    assert mixed.decoder.states[2] == recurrent
    assert recurrent.stored_shape(100) == (1, 24, 16)
    for context in (64, 1000):
        more = plan_memory(mixed, context=context).kv_cache - plan_memory(manifest, context=context).kv_cache
        assert more == 2 * 24 * 16 * 4
    with pytest.raises(BundleError, match=r"decoder\.states is 'key, value, ssm', expected key and value"):
        genai_config(mixed.decoder, mixed.processor.text)


def test_largest_context_is_the_largest_that_passes(manifest: Manifest) -> None:
    manifest = wide(manifest)
    plan = plan_memory(manifest, context=256)
    largest = largest_context(manifest, plan, plan.text - 20_000)
    assert 64 <= largest < 256
    check_plan(manifest, plan_memory(manifest, context=largest), plan.text - 20_000)
    with pytest.raises(MemoryPlanError):
        check_plan(manifest, plan_memory(manifest, context=largest + 1), plan.text - 20_000)


def test_a_plan_that_does_not_fit_is_refused_with_numbers(manifest: Manifest) -> None:
    manifest = wide(manifest)
    plan = plan_memory(manifest, context=256)
    with pytest.raises(MemoryPlanError, match=r"context of 256 tokens needs .* MB .*; a context of at most \d+ tokens"):
        check_plan(manifest, plan, plan.text - 20_000)
    with pytest.raises(MemoryPlanError, match="no context would fit"):
        check_plan(manifest, plan, 1000)


def test_an_encoder_that_does_not_fit_is_refused_when_it_is_wanted(manifest: Manifest) -> None:
    plan = plan_memory(manifest, context=64)
    check_encoder(plan, plan.encoders)
    check_encoder(plan, None)
    with pytest.raises(MemoryPlanError, match=r"needs .* MB for the encoder, there are"):
        check_encoder(plan, plan.encoders - 1)


def test_loading_copies_codes_and_keeps_scales_and_adapters_mapped(manifest: Manifest) -> None:
    """4,096 weights at 4 bits in groups of 32: 2,048 bytes of codes, 512 of scales, 64 of zero points."""

    def plan(name: str, bits: int = 4, level: int = 4) -> tuple[int, int, int]:
        size = 4 * 4096 if bits == 32 else 2048 + 512 + 64
        part = PartSpec(name=name, bits=bits, group=None if bits == 32 else 32, parameters=4096, size_bytes=size)
        recipe = {**manifest.recipe, "accuracy_level": level}
        found = plan_memory(dataclasses.replace(manifest, parts=(part,), recipe=recipe), context=64)
        return found.weights, found.used_weights, found.prepacked

    assert plan("decoder linears") == (512 + 64, 64, 2048 + 2 * 512)
    assert plan("decoder linears", level=0) == (512 + 64, 512 + 64, 2048)
    assert plan("adapter vision") == (2048 + 512 + 64, 64, 2048 + 2 * 512)
    assert plan("decoder linears", 32) == (16384, 0, 16384)
    assert plan("norms and tables", 32) == (16384, 16384, 0)
    assert plan("vision encoder") == (0, 0, 0)


@pytest.mark.parametrize(
    ("parameters", "draft_rows", "chunk"),
    [
        (4_700e6, 1, 8),
        (3_800e6, 1, 16),
        (4_700e6, 8, 16),
        (4_700e6, 15, 16),
        (4_700e6, 4, 8),
        (1e6, 1, 128),
        (60e9, 1, 8),
    ],
)
def test_the_first_chunk_is_as_long_as_about_a_second(
    manifest: Manifest, parameters: float, draft_rows: int, chunk: int
) -> None:
    """And longer than a step that gives logits of all its tokens."""
    part = PartSpec(name="decoder linears", bits=4, group=32, parameters=int(parameters), size_bytes=1)
    decoder = dataclasses.replace(manifest.decoder, draft_rows=draft_rows)
    chosen = chunk_for(dataclasses.replace(manifest, parts=(part,), decoder=decoder))
    assert (chosen.tokens, chosen.largest) == (chunk, 128)
    assert chosen.smallest > draft_rows


def sorted_reference(weights: NDArray[np.float32], share: float) -> set[int]:
    """The fewest weights that reach a share of their sum, by sorting all of them."""
    order = np.argsort(-weights, kind="stable")
    sums = np.cumsum(weights[order], dtype=np.float64)
    return set(order[: int(np.searchsorted(sums, share * sums[-1])) + 1].tolist())


@pytest.mark.parametrize("count", [1, 2, 63, 65, 1000, 40_000, 200_064])
@pytest.mark.parametrize("scale", [0.3, 2.0, 8.0])
def test_partial_selection_keeps_what_sorting_keeps(count: int, scale: float) -> None:
    random = np.random.default_rng(count)
    scores = (random.standard_normal(count) * scale).astype(np.float32)
    scores -= scores.max()
    weights = np.exp(scores)
    for share in (0.1, 0.5, 0.9, 0.95, 0.999):
        left = weights.copy()
        keep_fewest(left, share, np.empty(count + 3, np.int32))
        kept = np.flatnonzero(left)
        assert np.array_equal(left[kept], weights[kept])
        other = set(kept.tolist()) ^ sorted_reference(weights, share)
        assert len(other) <= 1  # rounding of the sum, at its very border
    order = np.argsort(-scores, kind="stable")
    for wanted in (1, 2, 50, 1000):
        if wanted < count:
            assert most_probable(scores, wanted).tolist() == sorted(order[:wanted].tolist())


@pytest.mark.parametrize("share", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("kind", ["flat", "few hold most of it", "half is forbidden", "steep"])
def test_many_tokens_of_a_large_vocabulary_are_chosen_without_sorting_it(
    kind: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(3)
    scores = random.standard_normal(200_064).astype(np.float32) * (6 if kind == "steep" else 1)
    if kind == "few hold most of it":
        scores[random.integers(0, 200_064, 200)] += 12
    weights = np.exp(scores - scores.max())
    if kind == "half is forbidden":
        weights[random.random(200_064) < 0.5] = 0
    sorted_ones: list[int] = []
    reaching = sampling._reaching

    def counted(part: NDArray[np.float32], wanted: float) -> NDArray[np.int64]:
        sorted_ones.append(len(part))
        return reaching(part, wanted)

    monkeypatch.setattr(sampling, "_reaching", counted)
    left = weights.copy()
    keep_fewest(left, share, np.empty(200_064, np.int32))
    assert len(set(np.flatnonzero(left).tolist()) ^ sorted_reference(weights, share)) <= 1
    assert sum(sorted_ones) < 20_000


def test_equal_scores_are_taken_from_the_lower_ids() -> None:
    scores = np.zeros(200_064, np.float32)
    assert most_probable(scores, 3).tolist() == [0, 1, 2]
    weights = np.exp(scores)
    keep_fewest(weights, 0.5, np.empty(200_064, np.int32))
    assert np.count_nonzero(weights) == 100_032


def test_what_a_grammar_forbids_is_minus_infinity_and_the_rest_as_it_was() -> None:
    scores = np.array([1.5, -2.0, -np.inf, 0.0, 7.0], np.float32)
    allowed = np.array([True, False, True, True, False])
    forbid(scores, allowed, np.full(5, -1, np.int32))
    assert scores.tolist() == [1.5, -np.inf, -np.inf, 0.0, -np.inf]


def test_one_sampler_takes_logits_of_several_lengths_and_leaves_them_unchanged() -> None:
    sampler = Sampler(GenerationOptions(temperature=1.0, top_p=0.5, seed=0), never=(), seen=())
    for count in (5, 40_000, 5):
        logits = np.zeros(count, np.float32)
        logits[3] = 50
        before = logits.copy()
        assert sampler.draw(logits, np.ones(count, bool)) == 3
        assert np.array_equal(logits, before)


@pytest.mark.parametrize(
    ("options", "kept"),
    [({}, 5), ({"top_k": 3}, 3), ({"top_p": 0.6}, 2), ({"top_k": 4, "top_p": 0.8}, 3), ({"min_p": 0.3}, 3)],
)
def test_draws_have_the_probabilities_of_the_options(options: dict[str, Any], kept: int) -> None:
    chances = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    sampler = Sampler(GenerationOptions(temperature=1.0, seed=1, **options), never=(), seen=())
    logits = np.log(chances).astype(np.float32)
    drawn = np.bincount([sampler.draw(logits) for _ in range(4000)], minlength=5) / 4000
    expected = np.where(np.arange(5) < kept, chances, 0)
    np.testing.assert_allclose(drawn, expected / expected.sum(), atol=0.03)


@pytest.mark.parametrize("min_p", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("top_p", [None, 0.7])
def test_min_p_keeps_the_tokens_that_transformers_keeps(min_p: float, top_p: float | None) -> None:
    import torch
    from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopPLogitsWarper

    logits = np.random.default_rng(3).standard_normal(40).astype(np.float32)
    warpers = [TemperatureLogitsWarper(1.5), *([TopPLogitsWarper(top_p)] if top_p else []), MinPLogitsWarper(min_p)]
    scores = torch.tensor(logits)[None]
    for warper in warpers:
        scores = warper(torch.zeros(1, 1, dtype=torch.long), scores)
    expected = {int(i) for i in torch.isfinite(scores[0]).nonzero()}
    sampler = Sampler(GenerationOptions(temperature=1.5, min_p=min_p, top_p=top_p, seed=1), never=(), seen=())
    assert {sampler.draw(logits) for _ in range(4000)} == expected


def test_a_mask_and_equal_seeds_hold_at_a_real_vocabulary() -> None:
    random = np.random.default_rng(0)
    logits = random.standard_normal(200_064).astype(np.float32)
    before = logits.copy()
    allowed = random.random(200_064) < 0.01
    options = GenerationOptions(temperature=1.0, top_p=0.95, seed=7)
    draws = []
    for _ in range(2):
        sampler = Sampler(options, never=(5,), seen=())
        draws.append([sampler.draw(logits, allowed) for _ in range(50)])
    assert draws[0] == draws[1]
    assert allowed[draws[0]].all()
    assert (logits == before).all()
