"""An adapter that a user added, on the phone's libraries: loaded from its own file, chosen by name and by route."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import palmtop
from palmtop.export.adapters.install import add_adapter, set_route
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.manifest import Route
from palmtop.runtime.chat.routing import AdapterRequest
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.reference.heldout import held_out_items
from palmtop.runtime.session import Session
from tests.android.jvm import Core
from tests.reference.plain import random_lora

pytestmark = pytest.mark.android
CONTEXT = 512
MAX_TOKENS = 12
REQUESTS = (
    AdapterRequest(),
    AdapterRequest({"mine": 1.0}),
    AdapterRequest({"mine": 1.0, "speech": 0.5}),
    AdapterRequest(route="sorting"),
    AdapterRequest({"mine": -0.5}, "sorting"),
    AdapterRequest({}, "sorting"),
)


@pytest.fixture(scope="module")
def bundle(reference_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At accuracy level 0, where the kernels of all versions agree, with an adapter of random weights."""
    folder = tmp_path_factory.mktemp("added")
    made = export_model(reference_checkpoint, folder / "bundle", Recipe(accuracy_level=0))
    random_lora(reference_checkpoint, folder / "mine", 1)
    add_adapter(made, folder / "mine")
    set_route(made, "sorting", Route(adapters={"mine": 0.5, "vision": 1.0}, audio_projector="vision"))
    return made


@pytest.fixture(scope="module")
def session(bundle: Path) -> Iterator[Session]:
    with palmtop.load(bundle, threads=1, context=CONTEXT) as session:
        yield session


@pytest.fixture(scope="module")
def core(phone: Core, bundle: Path) -> Core:
    phone.ask("load", folder=str(bundle), context=CONTEXT)
    return phone


@pytest.mark.parametrize("task", ["text", "image", "audio"])
def test_every_request_is_answered_as_by_the_python_runtime(core: Core, session: Session, task: Any) -> None:
    different = set()
    for item in held_out_items(task, 3, 0):
        for request in REQUESTS:
            options = GenerationOptions(max_tokens=MAX_TOKENS)
            expected = session.answer(item.messages, adapters=request, options=options)
            asked: dict[str, Any] = {} if request.adapters is None else {"adapters": request.adapters}
            reply = core.respond(item.messages, max_tokens=MAX_TOKENS, route=request.route, **asked)
            assert (reply["ids"], reply["adapters"]) == (list(expected.token_ids), expected.adapters)
            different.add(expected.token_ids)
    assert len(different) >= 4  # the adapter changes answers
