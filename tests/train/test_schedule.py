"""Learning-rate courses against their definitions, and the average of weights against its recursion."""

from __future__ import annotations

import math

import pytest
import torch

from train.average import Average
from train.recipe import ScheduleRecipe
from train.schedule import Schedule


def test_warm_up_rises_evenly_to_one() -> None:
    course = Schedule(ScheduleRecipe("constant", epochs=5, warmup=2), 10)
    assert [course.factor(step) for step in range(20)] == pytest.approx([(step + 1) / 21 for step in range(20)])
    assert course.factor(20) == 1.0


def test_cosine_starts_at_one_passes_the_middle_and_ends_at_the_floor() -> None:
    course = Schedule(ScheduleRecipe("cosine", epochs=12, warmup=2, floor=0.1), 10)
    assert course.factor(20) == 1.0
    assert course.factor(70) == pytest.approx(0.1 + 0.9 / 2)
    assert course.factor(45) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert course.factor(120) == course.factor(500) == pytest.approx(0.1)
    assert Schedule(ScheduleRecipe("cosine", epochs=1, warmup=5), 10).factor(3) > 0


def test_milestones_multiply() -> None:
    course = Schedule(ScheduleRecipe("multistep", epochs=9, warmup=0, milestones=(6, 3), gamma=0.5), 4)
    assert [course.factor(4 * epoch) for epoch in range(8)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert course.factor(11) == 1


def test_plateau_waits_then_drops_down_to_the_floor() -> None:
    recipe = ScheduleRecipe("plateau", epochs=99, warmup=0, patience=1, gamma=0.5, floor=0.2)
    course = Schedule(recipe, 1)
    factors = []
    for nme in (0.5, 0.4, 0.4, 0.41, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3):
        course.observe(nme)
        factors.append(course.factor(0))
    assert factors == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2]
    again = Schedule(recipe, 1)
    again.load_state_dict(course.state_dict())
    assert again.factor(0) == 0.2 and again.best == 0.3 and again.waited == course.waited


def test_average_follows_its_recursion() -> None:
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    average = Average(model, 0.5)
    wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for step in range(12):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(2, 3, 5, 5))
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            wanted[name] = decay * wanted[name] + (1 - decay) * tensor if tensor.is_floating_point() else tensor.clone()
    assert average.steps == 12 and average.weights["1.num_batches_tracked"] == 12
    for name, tensor in wanted.items():
        torch.testing.assert_close(average.weights[name], tensor)
    assert not torch.equal(average.weights["1.running_mean"], model.state_dict()["1.running_mean"])


def test_average_of_a_still_model_is_the_model() -> None:
    model = torch.nn.Linear(3, 3)
    average = Average(model, 0.999)
    for _ in range(5):
        average.update()
    torch.testing.assert_close(average.weights["weight"], model.weight.detach())


def test_average_comes_back() -> None:
    model = torch.nn.Linear(3, 3)
    average = Average(model, 0.9)
    average.load({"weight": torch.ones(3, 3), "bias": torch.zeros(3)}, 7)
    assert average.steps == 7 and average.weights["weight"].sum() == 9
