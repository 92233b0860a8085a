"""Learning from teachers: what they are asked, on what, and that the student follows them where labels are silent."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from test_loop import BATCHES, Stop, assert_same_run, raise_at, train
from tiny import Teller, tiny

from export.fuse import fuse
from runtime.errors import InputError, UsageError
from runtime.geometry import Box, crop_region, points_to_target
from runtime.layouts import IBUG68, IBUG68_IN_WFLW98
from runtime.spec import CropRule, ModelSpec
from train.checkpoint import Checkpoint, load_model, save_checkpoint
from train.data.loader import Batch
from train.data.open import open_source
from train.evaluate import crop_faces, torch_predictor
from train.losses import Extras, make_loss
from train.machine import Machine
from train.models.zoo import build
from train.recipe import DistillRecipe
from train.resume import resumed_recipe
from train.rundir import RunDirectory
from train.teachers import Teachers

MACHINE = Machine(torch.device("cpu"), None, False)
STUDENT = ModelSpec("pfld", width=0.1, input_size=32)
SILENT = np.setdiff1d(np.arange(98), IBUG68_IN_WFLW98)
"""Points that 68-point labels do not have."""


def checkpoint(path: Path, spec: ModelSpec, bias: float = 0.5, spread: float = 0.2, seed: int = 1) -> Path:
    """A network with its own idea of where points are."""
    torch.manual_seed(seed)
    model = build(spec)
    with torch.no_grad():
        norms = [module for module in model.modules() if hasattr(module, "momentum")]
        for norm in norms:
            norm.momentum = 1.0
        model.train()(torch.rand(16, 3, spec.input_size, spec.input_size))  # so that its norms have seen something
        model.fc.bias.copy_(bias + spread * (torch.rand(2 * spec.points) - 0.5))  # type: ignore[union-attr, operator]
    save_checkpoint(path, Checkpoint("multi-branch", spec, model.state_dict()))
    return path


def teachers(recipe: DistillRecipe, student: ModelSpec = STUDENT) -> Teachers:
    return Teachers(recipe, student, MACHINE, fuse)


class Says(nn.Module):
    """Puts out the same landmarks for every face."""

    def __init__(self, points: np.ndarray) -> None:
        super().__init__()
        self.points = torch.from_numpy(points.astype(np.float32)).reshape(1, -1)

    def forward(self, images: Tensor) -> Tensor:
        return self.points.expand(len(images), -1)


def batch(students: int, *views: int, weights: Tensor | None = None, pixel: float = 0.01) -> Batch:
    weight = np.ones((2, 98), np.float32) if weights is None else weights.numpy()
    return Batch(
        np.zeros((2, students, students, 3), np.uint8),
        np.full((2, 98, 2), 0.5, np.float32),
        weight,
        np.zeros((2, 6), np.float32),
        np.zeros((2, 3), np.float32),
        np.arange(2),
        np.full((2, 2), pixel, np.float32),
        tuple(np.zeros((2, size, size, 3), np.uint8) for size in views),
    )


@pytest.mark.parametrize("teacher_kind", ["centre", "corner"])
@pytest.mark.parametrize("student_kind", ["centre", "corner"])
def test_landmarks_are_carried_into_the_students_crop(tmp_path: Path, teacher_kind: str, student_kind: str) -> None:
    student = replace(STUDENT, coordinates=student_kind)
    spec = replace(STUDENT, input_size=48, crop=CropRule(scale=1.5), coordinates=teacher_kind)
    box = Box(20, 30, 80, 100)
    truth = np.random.default_rng(0).uniform((20, 30), (80, 100), (98, 2))
    ours, its = crop_region(box, student.crop), crop_region(box, spec.crop)
    asked = teachers(DistillRecipe((str(checkpoint(tmp_path / "t.ckpt", spec)),)), student)
    member = replace(asked.members[0], net=Says(points_to_target(truth, its, spec)))
    target, known = asked.ask(member, batch(32, 48, pixel=1 / ours.side))
    assert (known == 1).all()
    np.testing.assert_allclose(target[0].numpy(), points_to_target(truth, ours, student), atol=1e-5)


def test_points_that_a_teacher_lacks_do_not_teach(tmp_path: Path) -> None:
    spec = replace(STUDENT, points=68, layout="ibug68")
    asked = teachers(DistillRecipe((str(checkpoint(tmp_path / "t.ckpt", spec)),)))
    said = np.random.default_rng(1).uniform(0, 1, (68, 2))
    target, known = asked.ask(replace(asked.members[0], net=Says(said)), batch(32, 32))
    assert known[0].nonzero().flatten().tolist() == sorted(IBUG68_IN_WFLW98)
    np.testing.assert_allclose(target[0, list(IBUG68_IN_WFLW98)].numpy(), said, atol=1e-6)
    small = replace(STUDENT, points=68, layout="ibug68")
    asked = teachers(DistillRecipe((str(checkpoint(tmp_path / "u.ckpt", STUDENT)),)), small)
    said = np.random.default_rng(2).uniform(0, 1, (98, 2))
    target, known = asked.ask(replace(asked.members[0], net=Says(said)), batch(32, 32))
    assert (known == 1).all() and known.shape == (2, IBUG68.count)
    np.testing.assert_allclose(target[0].numpy(), said[list(IBUG68_IN_WFLW98)], atol=1e-6)


def test_the_mixture_is_the_weighted_sum(tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path / f"{seed}.ckpt", STUDENT, seed=seed) for seed in (1, 2)]
    recipe = DistillRecipe((f"{paths[0]}:3", str(paths[1])), weight=0.5, labels=0.25)
    asked, loss = teachers(recipe), make_loss("wing")
    points = torch.rand(2, 98, 2) * 32
    given = batch(32, 32)
    parts = [loss(points, asked.ask(member, given)[0] * 32) for member in asked.members]
    assert len(asked.views) == 1
    labels = torch.tensor(2.0)
    expected = 0.25 * labels + 0.5 * (0.75 * parts[0] + 0.25 * parts[1])
    assert asked.mixed(labels, points, given, loss, Extras()).item() == pytest.approx(expected.item(), rel=1e-6)
    assert parts[0].item() != pytest.approx(parts[1].item())
    nobody = teachers(DistillRecipe())
    assert not nobody and nobody.digest == "" and nobody.mixed(labels, points, given, loss, Extras()) is labels


def test_a_teacher_is_fused_frozen_and_says_what_its_checkpoint_says(tmp_path: Path) -> None:
    spec = ModelSpec("ghostone", width=0.1, input_size=32, branches=2)
    path = checkpoint(tmp_path / "t.ckpt", spec)
    asked = teachers(DistillRecipe((str(path),)))
    net = asked.members[0].net
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    whole, _ = load_model(path)
    assert sum(p.numel() for p in net.parameters()) < 0.7 * sum(p.numel() for p in whole.parameters())
    seen = replace(batch(32), views=(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8),))
    source = open_source("synth:2")
    crops = crop_faces(source, spec)
    from runtime.geometry import network_input

    expected = torch_predictor(whole)(network_input(seen.views[0], spec)).reshape(2, 98, 2)
    np.testing.assert_allclose(asked.ask(asked.members[0], seen)[0].numpy(), expected, atol=1e-5)
    assert len(crops) == 2
    assert asked.describe() == [f"teacher {path}: ghostone, width 0.1, 32 px, 98 points, weight 1"]


def test_the_student_follows_where_labels_are_silent(tmp_path: Path) -> None:
    teacher = checkpoint(tmp_path / "t.ckpt", replace(STUDENT, input_size=48), spread=0.6)
    faces = tmp_path / "list_68pt_rect_attr_train.txt"
    write_68(faces, 48)
    silent = {}
    for name, distill in (("alone", {}), ("taught", {"teacher": [str(teacher)]})):
        recipe = tiny(
            model={"layout": "wflw98"},
            data={"train": [str(faces)], "val": ["synth:12@2"]},
            optimizer={"lr": 2e-2},
            schedule={"epochs": 12},
            augment={"preset": "light"},
            distill=distill,
        )
        train(recipe, tmp_path / name)
        student, ours = load_model(tmp_path / name / "last.ckpt")
        silent[name] = gap(student, ours.spec, *load_model(teacher))
    assert silent["taught"] < 0.35 * silent["alone"]


def write_68(path: Path, count: int) -> None:
    from runtime.images import write_image

    source = open_source(f"synth:{count}@1")
    lines = []
    for index in range(count):
        points = source.sample(index).points[list(IBUG68_IN_WFLW98)]
        write_image(path.parent / "images" / f"{index}.png", source.photo(index))
        lines.append(" ".join([*(f"{v:.4f}" for v in points.ravel()), f"{index}.png"]))
    path.write_text("\n".join(lines) + "\n")


def gap(student: nn.Module, ours: ModelSpec, teacher: nn.Module, other: Checkpoint) -> float:
    """Mean distance on new faces between the two, over points that no label names, in sides of the crop."""
    from runtime.geometry import network_input

    source, said = open_source("synth:8@9"), []
    for model, spec in ((student, ours), (teacher, other.spec)):
        images = crop_faces(source, spec).images
        said.append(np.asarray(torch_predictor(model)(network_input(images, spec))).reshape(8, 98, 2)[:, SILENT])
    return float(np.hypot(*(said[0] - said[1]).transpose(2, 0, 1)).mean())


def test_a_taught_run_resumes_to_the_bit_and_knows_its_teachers(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "t.ckpt", replace(STUDENT, input_size=48))
    recipe = tiny(schedule={"epochs": 2}, distill={"teacher": [f"{path}:2"], "weight": 0.7}, data={"workers": 2})
    train(recipe, tmp_path / "straight", fuse=fuse)
    with pytest.raises(Stop):
        train(recipe, tmp_path / "stopped", watch=Teller(raise_at(BATCHES + 1)), fuse=fuse)
    run = RunDirectory(tmp_path / "stopped")
    before = path.read_bytes()
    checkpoint(path, replace(STUDENT, input_size=48), seed=7)
    with pytest.raises(InputError, match="teachers"):
        train(resumed_recipe(run, {}), run.path, resume=True, fuse=fuse)
    path.write_bytes(before)
    train(resumed_recipe(run, {}), run.path, resume=True, fuse=fuse)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"crop": CropRule(shift=(0.1, 0.0))}, "do not share a centre"),
        ({"crop": CropRule(box="annotation")}, "starts from the box 'annotation'"),
        ({"points": 5, "layout": "plain5"}, "no map between them"),
    ],
)
def test_teachers_that_cannot_teach(tmp_path: Path, change: dict[str, object], said: str) -> None:
    path = checkpoint(tmp_path / "t.ckpt", replace(STUDENT, **change))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=said):
        teachers(DistillRecipe((str(path),)))


def test_wrong_words_about_teachers(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "t.ckpt", STUDENT)
    with pytest.raises(UsageError, match="above 0 and be at most 1000"):
        teachers(DistillRecipe((f"{path}:0",)))
    with pytest.raises(UsageError, match="nothing left to learn"):
        teachers(DistillRecipe((str(path),), weight=0, labels=0))
    with pytest.raises(InputError, match="no such file"):
        teachers(DistillRecipe((str(tmp_path / "none.ckpt"),)))
    with pytest.raises(InputError, match="no such file"):
        train(tiny(distill={"teacher": ["none.ckpt"]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
