"""Training with quantization in the loop, end to end on the embedded digits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import safetensors.torch
import torch

import halfstep as hs
from halfstep.data import Data
from halfstep.demo.network import digits_network
from halfstep.errors import RecipeError, TrainingError
from halfstep.graph.edit import named_state

SHORT = {"epochs": 2, "batch_size": 64}
NEAREST = {
    "name": "w3a3",
    "scheme": {"weights": {"type": "int3"}, "activations": {"type": "uint3", "symmetric": False}, "inputs": "uint8", "addends": "uint8"},
    "steps": ["fold_batch_norm", "place_quantizers", "calibrate", "round"],
}
TRAINED = {**NEAREST, "steps": [*NEAREST["steps"], {"finetune": SHORT}]}  # type: ignore[misc]


@cache
def digits(split: str) -> Data:
    return hs.load_data(f"digits:{split}")


def trained(**options: object) -> hs.Result:
    recipe = hs.Recipe.parse(TRAINED).with_step("finetune", options)
    return hs.finetune(digits_network(), digits("calibration"), recipe)


def same(a: hs.Result, b: hs.Result) -> bool:
    own, other = a.model.state_dict(), b.model.state_dict()
    return set(own) == set(other) and all(torch.equal(own[name], other[name]) for name in own)


@cache
def default() -> hs.Result:
    return trained()


def test_it_learns_what_rounding_lost() -> None:
    """On the data it trained on, the answers come nearer to the float network's."""
    before = hs.quantize(digits_network(), digits("calibration"), hs.Recipe.parse(NEAREST))
    inputs = torch.cat([batch.inputs[0] for batch in digits("calibration").batches(64)])
    with torch.no_grad():
        exact, rounded, learned = (model(inputs) for model in (before.float_model, before.model, default().model))
    assert float((learned - exact).square().mean()) < 0.7 * float((rounded - exact).square().mean())
    assert "the loss went from" in default().record.notes[-1]


def test_the_integer_program_equals_the_simulation() -> None:
    program = hs.lower(default())
    record = default().record.program
    assert record is not None and all(operator.num_differing == 0 for operator in record.operators)
    assert hs.evaluate(program, digits("test")) == pytest.approx(hs.evaluate(default(), digits("test")), abs=0.1)


def test_the_onnx_file_passes_its_verification(tmp_path: Path) -> None:
    assert hs.export.onnx(default(), tmp_path / "model.onnx").max_code_difference <= 1


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    default().save(tmp_path / "run")
    loaded = hs.load(tmp_path / "run")
    assert same(loaded, default())
    assert loaded.recipe.steps[-1] == default().recipe.build_steps()[-1].full_spec()


def test_the_same_seed_gives_the_same_bytes_and_another_does_not() -> None:
    assert same(trained(), default())
    recipe = hs.Recipe.parse(TRAINED)
    assert not same(hs.finetune(digits_network(), digits("calibration"), recipe, seed=1), default())


def test_the_global_random_numbers_are_left_alone() -> None:
    model, recipe = digits_network(), hs.Recipe.parse(TRAINED).with_step("finetune", {"epochs": 0.5})
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    hs.finetune(model, digits("calibration"), recipe)
    assert torch.equal(torch.rand(3), expected)


def test_a_result_is_trained_from_where_it_stands() -> None:
    start = hs.quantize(digits_network(), digits("calibration"), hs.Recipe.parse(NEAREST))
    before = {name: tensor.clone() for name, tensor in start.model.state_dict().items()}
    found = hs.finetune(start, digits("calibration"), hs.Recipe.parse(TRAINED))
    assert all(torch.equal(tensor, before[name]) for name, tensor in start.model.state_dict().items())
    assert same(found, default())  # the step begins where its predecessors left the graph
    assert len(found.recipe.steps) == 5


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw", "learning_rate": 1e-4, "average": 0.9},
        {"distillation": 0.0},
        {"distillation": 0.5, "temperature": 2.0, "flip": True, "shift": 1},
        {"start": "paper", "start_weights": "float", "batch_norm": "folded"},
        {"precision": "bf16"},
        {"weights": {"sat": {"levels": "centred"}}, "activations": "pact"},
        {"weights": "dorefa", "activations": "lsq_plus"},
        {"weights": {"qil": {"learn_exponent": True}}, "activations": "qil"},
        {"weights": {"nice": {"noise": 0.2}}, "activations": "nice"},
        {"damping": 0.01, "msqe": 0.1},
    ],
    ids="-".join,
)
def test_every_option_trains_to_something_that_lowers(options: dict[str, object]) -> None:
    found = trained(**options)
    assert not same(found, default())
    hs.lower(found)
    assert found.record.program is not None
    assert all(operator.num_differing == 0 for operator in found.record.program.operators)


def test_zeros_of_a_pruned_network_stay() -> None:
    model = digits_network()
    pruned = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter[parameter.abs() < parameter.abs().median()] = 0
                pruned[name] = parameter == 0
    fine = {**TRAINED, "scheme": {"weights": {"type": "int8"}, "activations": {"type": "uint8", "symmetric": False}}}
    recipe = hs.Recipe.parse(fine).with_step("finetune", {"keep_zeros": True, "epochs": 1, "learning_rate": 0.2})
    found = named_state(hs.finetune(model, digits("calibration"), recipe).model)
    free = named_state(hs.finetune(model, digits("calibration"), recipe.with_step("finetune", {"keep_zeros": False})).model)
    assert len(pruned) > 2
    assert all(not found[name][mask].any() and found[name][~mask].any() for name, mask in pruned.items())
    assert any(bool(free[name][mask].any()) for name, mask in pruned.items())
    coarse = hs.Recipe.parse({**fine, "scheme": {**fine["scheme"], "weights": {"type": "int4"}}})
    with pytest.raises(RecipeError, match="'dorefa' has no level at 0"):
        hs.finetune(
            model, digits("calibration"), coarse.with_step("finetune", {"keep_zeros": True, "weights": {"dorefa": {"levels": "dorefa"}}})
        )


def test_data_without_labels_are_trained_on_by_the_float_networks_answers() -> None:
    inputs = torch.cat([batch.inputs[0] for batch in digits("calibration").batches(64)])
    recipe = hs.Recipe.parse(TRAINED)
    without = hs.finetune(digits_network(), inputs, recipe)
    asked = hs.finetune(digits_network(), inputs, recipe, options={"distillation": 0.5})
    assert same(without, asked)
    assert any("has no labels" in note for note in asked.record.notes)


def test_news_are_told_with_loss_accuracy_and_time_left() -> None:
    lines: list[str] = []
    seen: list[tuple[str, float, int | None]] = []

    def report(phase: str, done: float, total: int | None) -> None:
        seen.append((phase, done, total))

    recipe = hs.Recipe.parse(TRAINED)
    hs.finetune(digits_network(), digits("calibration"), recipe, validation=digits("test"), tell=lines.append, progress=report)
    assert [line.split(":")[0] for line in lines] == ["Epoch 1 of 2", "Epoch 2 of 2"]
    assert all("loss" in line and "top-1" in line and "left" in line for line in lines)
    assert ("finetune", 8, 8) in seen


def test_a_loss_that_breaks_names_the_layer_and_the_way_out() -> None:
    with pytest.raises(TrainingError, match=r"The loss is (nan|inf) in step \d+ of 8: .*'.+' is the first tensor.*Lower the learning rate"):
        trained(learning_rate=1e30, warm_up=0.0)


def test_batches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TrainingError, match="256 samples, fewer than a batch of 1000"):
        trained(batch_size=1000)


def test_a_recipe_that_does_not_train_is_refused() -> None:
    with pytest.raises(RecipeError, match="'int8' has no step 'finetune'"):
        hs.finetune(digits_network(), digits("calibration"), "int8")
    steps = ["fold_batch_norm", "place_quantizers", "finetune"]
    with pytest.raises(RecipeError, match="behind 'calibrate' or 'round'"):
        hs.quantize(digits_network(), digits("calibration"), hs.Recipe.parse({**NEAREST, "steps": steps}))


def test_a_loop_of_ones_own() -> None:
    prepared = hs.prepare(digits_network(), digits("calibration"), hs.Recipe.parse(TRAINED))
    weights, scales = prepared.weight_parameters(), prepared.scale_parameters()
    assert {id(p) for p in weights} | {id(p) for p in scales} == {id(p) for p in prepared.parameters()}
    before = prepared.result()
    optimizers = [torch.optim.SGD(weights, lr=0.01, momentum=0.9), torch.optim.Adam(scales, lr=1e-3)]
    prepared.train()
    for batch in digits("calibration").batches(64):
        loss = torch.nn.functional.cross_entropy(prepared(*batch.inputs), batch.labels)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    after = prepared.result()
    assert prepared.training
    assert not same(after, before)
    program = hs.lower(prepared)
    prepared.eval()
    assert hs.evaluate(program, digits("test")) == pytest.approx(hs.evaluate(prepared, digits("test")), abs=1.0)
    assert hs.evaluate(program, digits("test")) == hs.evaluate(hs.lower(after), digits("test"))


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
import halfstep as hs
from halfstep.demo.network import digits_network
recipe = hs.Recipe.load(sys.argv[1])
result = hs.finetune(
    digits_network(), hs.load_data("digits:calibration"), recipe, checkpoint=sys.argv[2], resume="--resume" in sys.argv,
    progress=lambda phase, done, total: print(phase, done, flush=True),
)
result.save(sys.argv[3])
"""


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """Kill -9 in the middle of an epoch, then --resume: the weights of a run that nothing disturbed."""
    options = {"epochs": 3, "checkpoint_minutes": 0, "flip": True, "shift": 1, "warp": 0.5, "views": 2}
    recipe = hs.Recipe.parse(TRAINED).with_step("finetune", options)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    whole = hs.finetune(digits_network(), digits("calibration"), recipe)
    arguments = [sys.executable, "-c", SCRIPT, str(tmp_path / "recipe.yaml"), str(tmp_path / "kept"), str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.split() == ["finetune", "6"]:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "run").exists()
    resumed = subprocess.run([*arguments, "--resume"], capture_output=True, text=True, env=environment, check=True)
    steps = [line.split()[1] for line in resumed.stdout.splitlines() if line.startswith("finetune") and line.split()[1] != "0"]
    assert 5 < int(steps[0]) <= 8  # not from the start
    assert not (tmp_path / "kept").exists()
    found = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    expected = whole.model.state_dict()
    assert set(found) == set(expected) and all(torch.equal(found[name], expected[name]) for name in found)


JOINT = """
import json, sys, torch
torch.set_num_threads(1)
import halfstep as hs
import halfstep.steps.finetune as step
from halfstep import parallel
from halfstep.demo.network import digits_network
losses = []
original = step.train
def train(*arguments):
    outcome = original(*arguments)
    losses.extend(outcome.losses)
    return outcome
step.train = train
with parallel.processes():
    hs.finetune(digits_network(), hs.load_data("digits:calibration"), hs.Recipe.load(sys.argv[1]))
    if parallel.index() == 0:
        print(json.dumps(losses))
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """The same batches shared out, mean and variance of the batch norms taken together: the same curve up to float32 sums."""
    recipe = hs.Recipe.parse(TRAINED).with_step("finetune", {"epochs": 4, "flip": True, "shift": 1, "views": 2})
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    curves = []
    for count in (1, 2):
        launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), "--master-port", str(29500 + os.getpid() % 1000)]
        (tmp_path / "joint.py").write_text(JOINT)
        command = [sys.executable, *launch, str(tmp_path / "joint.py"), str(tmp_path / "recipe.yaml")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        curves.append(torch.tensor(json.loads(done.stdout.strip().splitlines()[-1])))
    assert len(curves[0]) == 16
    torch.testing.assert_close(curves[1][:4], curves[0][:4], rtol=1e-3, atol=1e-5)  # before roundings of ties drift apart
    assert float((curves[1] - curves[0]).abs().mean()) < 0.1 * float(curves[0].mean())
