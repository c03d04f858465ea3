"""Networks handed out: what is loaded is what was trained, or a sentence says why it is not."""

import random
from dataclasses import asdict

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import evalib
from evalib import checkpoint, recipes, unet, weights
from evalib.config import Config


def facts(path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def network(seed: int = 0) -> torch.nn.Module:
    """A network whose maps vary and whose BatchNorm is not at its start."""
    torch.manual_seed(seed)
    model = recipes.build("small")
    for _ in range(3):
        model(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32))
    return model.eval()


@pytest.fixture
def small(tmp_path):
    """The file of a network, and the network."""
    model = network()
    weights.write(model, "small", tmp_path, {"data": "Rooms.", "limits": "Still cameras."})
    return tmp_path / "small.safetensors", model


def test_exported_weights_answer_as_the_network_did(tmp_path):
    model = network().to(memory_format=torch.channels_last)  # safetensors refuses these as they are
    path, _ = weights.write(model, "small", tmp_path, {})
    loaded, pair = evalib.load(path), (torch.rand(1, 3, 48, 64), torch.rand(1, 3, 48, 64))
    assert not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    for ours, theirs in zip(unet.predict(loaded, *pair), unet.predict(model, *pair), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_the_card_tells_what_it_was_told_and_where_nothing_was(small):
    card = (small[0].parent / "README.md").read_text(encoding="utf-8")
    assert "481,090 parameters, float32" in card
    assert "## Data\n\nRooms." in card and "## Scores\n\nNot stated." in card


def test_the_card_of_the_package_is_the_one_that_its_file_tells():
    card = (weights.DEFAULT.parent / "README.md").read_text(encoding="utf-8")
    assert card == weights.card(facts(weights.DEFAULT))
    assert "Not stated" not in card
    assert weights.DEFAULT.stat().st_size <= 2e6


def test_facts_and_card_keep_letters_that_are_not_ascii(tmp_path):
    path, card = weights.write(network(), "small", tmp_path, {"scores": "δ < 1.25 — 距離"})
    assert facts(path)["scores"] in card.read_bytes().decode("utf-8")


def test_load_without_a_path_takes_the_weights_of_the_package(small, monkeypatch):
    monkeypatch.setattr(weights, "DEFAULT", small[0])
    ours, theirs = evalib.load().state_dict(), small[1].state_dict()
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_missing_weights_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "DEFAULT", tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="none.safetensors is missing; train"):
        evalib.load()


def changed(weights, **tensors):
    return {name: t for name, t in (weights | tensors).items() if t is not None}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"extra": torch.zeros(1)}, 'Unexpected key.*"extra"'),
        ({"coarse.context.bias": None}, 'Missing key.*"coarse.context.bias"'),
        ({"coarse.context.bias": torch.zeros(95)}, r"coarse.context.bias: .*\[95\].*\[96\]"),
    ],
)
def test_weights_of_another_network_are_refused_in_one_sentence(tensors, message, small):
    path, _ = small
    save_file(changed(load_file(path), **tensors), path, metadata=facts(path))
    with pytest.raises(ValueError, match=f"does not fit 'small': .*{message}") as caught:
        evalib.load(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("metadata", [None, {}, {"network": "big"}, {"parameters": "1"}])
def test_a_file_that_names_no_network_of_ours_is_refused(metadata, small):
    save_file(load_file(small[0]), small[0], metadata=metadata)
    with pytest.raises(ValueError, match="cannot load .*network .* is unknown.*weights.export"):
        evalib.load(small[0])


def test_damaged_weights_are_refused(small):
    data = small[0].read_bytes()
    for broken in (b"", data[:100], data[:-1], b"\xff" * 100):
        small[0].write_bytes(broken)
        with pytest.raises(ValueError, match="cannot load .*small.safetensors"):
            evalib.load(small[0])


def test_random_damage_loads_or_is_refused_in_a_sentence(small):
    path, _ = small
    data = path.read_bytes()
    rng = random.Random(0)
    for _ in range(60):
        broken = bytearray(data)
        for _ in range(3):  # the header is where a byte can do harm
            broken[rng.randrange(2000)] = rng.randrange(256)
        path.write_bytes(broken)
        try:
            evalib.load(path)
        except ValueError as error:
            assert "cannot load" in str(error)


def best(step, score, seed):
    """A checkpoint of the kind that holds the best weights, as training stores it."""
    state = {"step": step, "score": score, "config": asdict(Config())}
    return checkpoint.serialise(state | {"model": network(seed).state_dict()}, "best")


def newest(step, seed, **scores):
    """A checkpoint to resume from: its averaged weights are those of `network(seed)`; `at_250=.9`
    is a score in its history."""
    history = [{"step": int(at[3:]), "score": score} for at, score in scores.items()]
    model = network(seed + 100).state_dict()
    ema = network(seed).state_dict()
    return checkpoint.serialise(
        {"step": step, "config": asdict(Config()), "model": model, "ema": ema, "history": history}
    )


def loaded_seed(path):
    """Which `network(seed)` a path gives."""
    ours = evalib.load(path).state_dict()
    for seed in range(3):
        if all(ours[name].equal(t) for name, t in network(seed).state_dict().items()):
            return seed
    return None


def test_a_run_gives_its_best_weights_and_not_the_latest_of_them(tmp_path):
    for name, data in (best(250, 0.9, 1), newest(500, 0, at_250=0.9, at_500=0.5)):
        (tmp_path / name).write_bytes(data)
    assert loaded_seed(tmp_path) == 1
    (tmp_path / best(500, 0.5, 2)[0]).write_bytes(best(500, 0.5, 2)[1])
    assert loaded_seed(tmp_path) == 1


def test_best_weights_that_a_run_left_behind_are_not_its_own(tmp_path):
    """It reached 4000, went on from 3750 on other hardware, and did worse at 4000 this time."""
    for name, data in (best(4000, 0.9, 2), newest(3750, 0, at_3500=0.5)):
        (tmp_path / name).write_bytes(data)
    assert loaded_seed(tmp_path) == 0  # the averaged weights of its newest checkpoint
    for name, data in (best(3500, 0.5, 1), newest(4250, 0, at_3500=0.5, at_4000=0.4)):
        (tmp_path / name).write_bytes(data)
    assert loaded_seed(tmp_path) == 1


def test_one_checkpoint_can_be_named_and_its_averaged_weights_count(tmp_path):
    for name, data in (best(250, 0.9, 1), newest(500, 2)):
        (tmp_path / name).write_bytes(data)
        assert loaded_seed(tmp_path / name) == (1 if name.startswith("best") else 2)


@pytest.mark.parametrize(
    "state",
    [
        torch.zeros(3),
        network().state_dict(),
        {"model": network().state_dict()},
        {"model": {}, "config": {"network": "small"}},
        {"model": [], "config": {"network": "small"}},
        {"model": {}, "config": []},
        {"model": {}, "config": {"network": ["small"]}},
        {"model": {}, "ema": 7, "config": {"network": "small"}},
    ],
)
def test_a_checkpoint_that_is_no_run_of_ours_is_refused(state, tmp_path):
    torch.save(state, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="cannot load .*foreign.pt .*needed a run of this evalib"):
        evalib.load(tmp_path / "foreign.pt")


def test_an_empty_folder_and_a_torn_checkpoint_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="Train first: .*evalib train"):
        evalib.load(tmp_path)
    name, data = newest(500, 0)
    (tmp_path / name).write_bytes(data[:-9])
    with pytest.raises(ValueError, match=f"cannot load .*{name} .*do not match its name"):
        evalib.load(tmp_path / name)


def test_an_exported_run_is_what_the_run_gives(tmp_path):
    name, data = newest(500, 1)
    (tmp_path / name).write_bytes(data)
    path, card = weights.export(tmp_path, tmp_path / "out", {"data": "24 rooms"})
    assert loaded_seed(path) == 1
    text = card.read_text(encoding="utf-8")
    assert "## Data\n\n24 rooms\n" in text
    assert "Steps: 1000 at 64 px, each of 64 samples" in text
    assert "seed 0; averaged weights of step 500." in text


# devices


def test_a_device_can_be_named_and_the_maps_do_not_depend_on_asking(small):
    for device in (None, "cpu"):
        model = evalib.load(small[0], device)
        assert {p.device.type for p in model.parameters()} == {"cpu"}  # tests see no GPU
        assert all(t.equal(small[1].state_dict()[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "gpu", "", "cpu:x"])
def test_a_device_that_is_unknown_or_absent_is_named_beside_those_there_are(device, small):
    with pytest.raises(ValueError, match=f"device '{device}' is unknown or absent .*one of cpu$"):
        evalib.load(small[0], device)


def test_the_gpu_is_taken_if_there_is_one(small, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="device 'cuda' .*one of cpu, cuda:0"):  # there is none
        evalib.load(small[0])


# ONNX


@pytest.mark.parametrize("size", [(64, 48), (96, 144)])  # one stage, both stages
def test_onnxruntime_answers_as_torch(tmp_path, size):
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    model = weights.load(device="cpu")
    weights.write_onnx(model, tmp_path / "small.onnx", size=size)
    graph = ort.InferenceSession(tmp_path / "small.onnx")
    for _ in range(2):
        images = {name: torch.rand(1, 3, *size) for name in ("bg", "fg_bg")}
        expected = unet.predict(model, **images)
        assert all(x.std() > 1e-2 for x in expected)  # else anything would be equal
        maps = graph.run(None, {name: image.numpy() for name, image in images.items()})
        for ours, theirs in zip(maps, expected, strict=True):
            assert abs(ours - theirs.numpy()).max() < 1e-4


def test_a_sure_pixel_is_no_more_than_1_in_onnxruntime(tmp_path):
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    model = network()
    for head in (model.coarse.mask_head, model.coarse.depth_head):
        torch.nn.init.zeros_(head[1].weight)
        torch.nn.init.constant_(head[1].bias, 17.482065)  # whose sigmoid is 1.0000001 there
    weights.write_onnx(model, tmp_path / "small.onnx", size=(32, 32))
    graph = ort.InferenceSession(tmp_path / "small.onnx")
    images = {name: torch.rand(1, 3, 32, 32).numpy() for name in ("bg", "fg_bg")}
    mask_pred, depth_pred = graph.run(None, images)
    assert mask_pred.max() == 1 and depth_pred.max() == pytest.approx(0.9999)  # of 10 m


def test_a_graph_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def export(*_args, **_options):
        raise ModuleNotFoundError("No module named 'onnxscript'")

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(ImportError, match="'onnxscript'.*: pip install onnx onnxscript"):
        weights.write_onnx(network(), tmp_path / "small.onnx")
    with pytest.raises(ValueError, match="small.pt is no name .*needed NAME.onnx"):
        weights.write_onnx(network(), tmp_path / "small.pt")
