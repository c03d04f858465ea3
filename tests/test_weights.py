"""Networks handed out: what is loaded is what was trained, or a sentence says why it is not."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import evalib
from evalib import recipes, unet, weights


def network(seed: int = 0) -> torch.nn.Module:
    """A network whose maps vary and whose BatchNorm is not at its start."""
    torch.manual_seed(seed)
    model = recipes.build("small")
    for _ in range(3):
        model(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32))
    return model.eval()


@pytest.fixture
def small(tmp_path):
    """The files of a network, and the network."""
    model = network()
    weights.write(model, "small", tmp_path, {"data": "Rooms.", "limits": "Still cameras."})
    return tmp_path / "small.safetensors", model


@pytest.mark.parametrize("limit", [weights.LIMIT, 2**20])
def test_exported_weights_answer_as_the_network_did(limit, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "LIMIT", limit)
    model = network().to(memory_format=torch.channels_last)  # safetensors refuses these as they are
    path, facts, _ = weights.write(model, "small", tmp_path, {})
    assert path.stat().st_size <= limit
    half = {t.dtype for t in load_file(path).values() if t.ndim > 1} == {torch.float16}
    assert half == (limit == 2**20) == (json.loads(facts.read_text())["dtype"] == "float16")
    loaded, pair = evalib.load(path), (torch.rand(1, 3, 48, 64), torch.rand(1, 3, 48, 64))
    assert not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    for ours, theirs in zip(unet.predict(loaded, *pair), unet.predict(model, *pair), strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-3 if half else 1e-6, rtol=0)


def test_the_card_tells_what_it_was_told_and_where_nothing_was(small):
    card = (small[0].parent / "README.md").read_text()
    assert "352,896 parameters, float32" in card
    assert "## Data\n\nRooms." in card and "## Scores\n\nNot stated." in card


def test_load_without_a_path_takes_the_weights_of_the_package(small, monkeypatch):
    monkeypatch.setattr(weights, "DEFAULT", small[0])
    ours, theirs = evalib.load().state_dict(), small[1].state_dict()
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_missing_weights_say_what_to_do(small, monkeypatch):
    monkeypatch.setattr(weights, "DEFAULT", small[0].parent / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="none.safetensors is missing; train .*export"):
        evalib.load()
    small[0].with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match="small.json is missing"):
        evalib.load(small[0])


def changed(weights, **tensors):
    return {name: t for name, t in (weights | tensors).items() if t is not None}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"extra": torch.zeros(1)}, r"in 1 tensors \(extra is \(1,\), needed None\)"),
        ({"coarse.context.bias": None}, r"coarse.context.bias is None, needed \(96,\)"),
        (
            {"coarse.context.bias": torch.zeros(95)},
            r"coarse.context.bias is \(95,\), needed \(96,\)",
        ),
    ],
)
def test_weights_of_another_network_are_refused_in_one_sentence(tensors, message, small):
    save_file(changed(load_file(small[0]), **tensors), small[0])
    with pytest.raises(ValueError, match=f"does not fit 'small' .*{message}") as caught:
        evalib.load(small[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("facts", ["", "[]", "{}", '{"network": []}', '{"network": "big"}', "\xff"])
def test_damaged_facts_are_refused(facts, small):
    small[0].with_suffix(".json").write_text(facts, encoding="latin-1")
    with pytest.raises(ValueError, match="cannot load .*small.safetensors .*needed a .safetensors"):
        evalib.load(small[0])


def test_damaged_weights_are_refused(small):
    data = small[0].read_bytes()
    for broken in (b"", data[:100], data[:-1], b"\xff" * 100):
        small[0].write_bytes(broken)
        with pytest.raises(ValueError, match="cannot load .*small.safetensors"):
            evalib.load(small[0])


@pytest.mark.parametrize("size", [(64, 48), (96, 144)])  # one stage, both stages
def test_onnxruntime_answers_as_torch(tmp_path, size):
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    model = network()
    weights.write_onnx(model, tmp_path / "small.onnx", size=size)
    graph = ort.InferenceSession(tmp_path / "small.onnx")
    for _ in range(2):
        images = {name: torch.rand(1, 3, *size) for name in ("bg", "fg_bg")}
        expected = unet.predict(model, **images)
        assert expected[0].std() > 1e-3  # else anything would be equal
        maps = graph.run(None, {name: image.numpy() for name, image in images.items()})
        for ours, theirs in zip(maps, expected, strict=True):
            assert abs(ours - theirs.numpy()).max() < 1e-4


def test_a_graph_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def export(*_args, **_options):
        raise ModuleNotFoundError("No module named 'onnxscript'")

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(ImportError, match="pip install onnx onnxscript"):
        weights.write_onnx(network(), tmp_path / "small.onnx")
    with pytest.raises(ValueError, match="needed NAME.onnx"):
        weights.write_onnx(network(), tmp_path / "small.pt")
