"""Both layouts of the same checkpoint give the same bundle, byte for byte in its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import palmtop
from palmtop.errors import CheckpointError
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.export.verify.judging.multimodal_reference import port_config
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.reference.heldout import held_out_items
from tests.reference.port import load_port

COPIED = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "generation_config.json")


def write_port_layout(upstream: Path, folder: Path) -> None:
    """As ``convert_phi4_multimodal_weights_to_hf.py`` and PEFT would leave it."""
    folder.mkdir()
    for name in COPIED:
        shutil.copyfile(upstream / name, folder / name)
    config = port_config(json.loads((upstream / "config.json").read_text())).to_dict()
    (folder / "config.json").write_text(json.dumps(config, default=str))
    state = {k: v.bfloat16().contiguous() for k, v in load_port(upstream).state_dict().items()}
    base = {k.replace(".base_layer", ""): v for k, v in state.items() if ".lora_" not in k and k != "lm_head.weight"}
    save_file(base, folder / "model.safetensors")
    source = json.loads((upstream / "config.json").read_text())
    for adapter in ("vision", "speech"):
        beside = folder / f"{adapter}-lora"
        beside.mkdir()
        lora = {
            f"base_model.model.{k.replace(f'.{adapter}.weight', '.weight')}": v
            for k, v in state.items()
            if ".lora_" in k and f".{adapter}." in k
        }
        save_file(lora, beside / "adapter_model.safetensors")
        sizes = source[f"{adapter}_lora"]
        settings = {"peft_type": "LORA", "r": sizes["r"], "lora_alpha": sizes["lora_alpha"]}
        (beside / "adapter_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def port(reference_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("port") / "port"
    write_port_layout(reference_checkpoint, folder)
    return folder


def test_weights_are_byte_identical(port: Path, int4_bundle: Path, tmp_path: Path) -> None:
    bundle = export_model(port, tmp_path / "bundle")
    for part in ("decoder", "vision", "audio"):
        same = (bundle / f"weights/{part}.bin").read_bytes() == (int4_bundle / f"weights/{part}.bin").read_bytes()
        assert same, part
    ours, theirs = (json.loads((b / "bundle.json").read_text()) for b in (bundle, int4_bundle))
    for key in ("processor", "decoder", "routes", "vision", "audio", "parts"):
        assert ours[key] == theirs[key], key


def test_a_missing_adapter_folder_is_named(port: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(port, tmp_path / "checkpoint"))
    shutil.rmtree(copy / "speech-lora")
    with pytest.raises(
        CheckpointError, match=r"has no speech adapter, neither in its tensors nor in a folder 'speech-lora'"
    ):
        export_model(copy, tmp_path / "bundle", Recipe(bits=32))


def test_dora_is_refused(port: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(port, tmp_path / "checkpoint"))
    path = copy / "vision-lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    with pytest.raises(CheckpointError, match="use_dora is True, expected a plain LoRA"):
        export_model(copy, tmp_path / "bundle", Recipe(bits=32))


@pytest.mark.parametrize("takes_text", [False, True])
def test_a_template_that_writes_the_media_tokens_itself_is_followed(
    takes_text: bool, port: Path, int4_bundle: Path, tmp_path: Path
) -> None:
    """Content as a list only, or as text too; the pictures' places are those that the template wrote."""
    copy = Path(shutil.copytree(port, tmp_path / "checkpoint"))
    parts = (
        "{% for c in m['content'] %}{% if c['type']=='image' %}{{ '<|endoftext10|>' }}{% elif c['type']=='audio' %}"
        "{{ '<|endoftext11|>' }}{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    )
    text = f"{{% if m['content'] is string %}}{{{{ m['content'] }}}}{{% else %}}{parts}{{% endif %}}"
    template = (
        f"{{% for m in messages %}}{{{{ '<|' + m['role'] + '|>' }}}}{text if takes_text else parts}{{{{ '<|end|>' }}}}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    (copy / "chat_template.jinja").write_text(template)
    bundle = export_model(copy, tmp_path / "bundle")
    items = [item for task in ("image", "audio", "image+audio") for item in held_out_items(task, 2, 1)]
    with palmtop.load(bundle) as session, palmtop.load(int4_bundle) as reference:
        said = [session.answer(item.messages).text for item in items]
        assert said == [reference.answer(item.messages).text for item in items]
    assert sum(text == item.expected for text, item in zip(said, items, strict=True)) >= 5


def test_the_processor_s_parts_of_transformers_5_are_read(port: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(port, tmp_path / "checkpoint"))
    flat = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").unlink()
    parted = {
        "image_processor": {"dynamic_hd": 12, "image_processor_type": "Phi4MultimodalImageProcessor", "patch_size": 14},
        "audio_processor": {key: value for key, value in flat.items() if key.startswith("audio_")},
        "processor_class": "Phi4MultimodalProcessor",
    }
    (copy / "processor_config.json").write_text(json.dumps(parted))
    notes: list[str] = []
    bundle = open_bundle(export_model(copy, tmp_path / "bundle", on_note=notes.append))
    assert bundle.manifest.processor.image is not None
    assert (bundle.manifest.processor.image.max_tiles, notes) == (12, [])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sampling_rate", 8000, "sampling_rate is 8000, config.json says 16000"),
        ("image_mean", [0.48, 0.45, 0.4], r"image_mean is \[0.48, 0.45, 0.4\], config.json says \[0.5, 0.5, 0.5\]"),
        ("patch_size", 16, "patch_size is 16, config.json says 14"),
        ("do_normalize", False, "do_normalize is False, config.json says True"),
        ("audio_compression_rate", 4, "audio_compression_rate is 4, preprocessor_config.json says 8"),
    ],
)
def test_a_preprocessor_that_would_do_something_else_is_refused(
    key: str, value: object, message: str, port: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(port, tmp_path / "checkpoint"))
    part = "audio_processor" if key.startswith(("audio", "sampling")) else "image_processor"
    (copy / "processor_config.json").write_text(json.dumps({part: {key: value}}))
    with pytest.raises(CheckpointError, match=message):
        export_model(copy, tmp_path / "bundle")


def test_a_preprocessor_s_unknown_setting_is_said(port: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(port, tmp_path / "checkpoint"))
    (copy / "processor_config.json").write_text(
        json.dumps({"image_processor": {"sharpen": 2, "size": {"height": 448}}})
    )
    notes: list[str] = []
    export_model(copy, tmp_path / "bundle", on_note=notes.append)
    assert ["sharpen" in notes[1], "tiles are 56 pixels wide" in notes[0], len(notes)] == [True, True, 2]


def test_adapters_as_transformers_own_converter_writes_them(port: Path, int4_bundle: Path, tmp_path: Path) -> None:
    """Keys without ``base_model.model.``."""
    copy = Path(shutil.copytree(port, tmp_path / "checkpoint"))
    for name in ("vision", "speech"):
        path = copy / f"{name}-lora" / "adapter_model.safetensors"
        save_file({key.removeprefix("base_model.model."): t for key, t in load_file(path).items()}, path)
    bundle = export_model(copy, tmp_path / "bundle")
    assert (bundle / "weights/decoder.bin").read_bytes() == (int4_bundle / "weights/decoder.bin").read_bytes()
