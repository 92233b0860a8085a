"""Probing the GPU through the driver, against a driver that is not one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

from fake_cuda import FakeCuda, fake_cuda, library_path  # noqa: F401

from runtime.errors import MissingBackendError
from runtime.gpu import driver_release, l4t_release, probe_gpu

ROOT = Path(__file__).resolve().parents[2]


def test_a_gpu_is_named(fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("FAKE_GPU", "Orin (nvgpu)")
    gpu = probe_gpu()
    assert (gpu.name, gpu.sm, gpu.cuda) == ("Orin (nvgpu)", "8.7", "12.6")
    assert str(gpu) == "Orin (nvgpu) (SM 8.7)"


@pytest.mark.parametrize(
    ("code", "told"), [(100, "finds no GPU"), (35, "older"), (34, "stub"), (804, "compat"), (7, "error 7")]
)
def test_each_failure_of_the_driver_has_its_sentence(
    fake_cuda: FakeCuda,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    told: str,
) -> None:
    monkeypatch.setenv("FAKE_CUINIT", str(code))
    with pytest.raises(MissingBackendError, match=told):
        probe_gpu()


def test_no_driver_and_no_device(fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("FAKE_DEVICES", "0")
    with pytest.raises(MissingBackendError, match="no GPU number 0 here"):
        probe_gpu()
    monkeypatch.setattr("runtime.gpu.DRIVER_NAMES", ("libnothing.so",))
    with pytest.raises(MissingBackendError, match="libcuda, the NVIDIA driver, is not installed"):
        probe_gpu()


def test_releases_are_read(tmp_path: Path) -> None:
    proc, tegra = tmp_path / "version", tmp_path / "nv_tegra_release"
    assert driver_release(proc, tegra) == ""
    tegra.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: 2025\n")
    assert l4t_release(tegra) == driver_release(proc, tegra) == "L4T 36.4.3"
    proc.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.90.07  Fri May 31 09:35:42 UTC 2024\n")
    assert driver_release(proc, tegra) == "550.90.07"


def test_asking_without_a_gpu_never_imports_tensorrt() -> None:
    """A Runtime() without a GPU is an object that crashes; so the driver is asked first."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom runtime.backends.tensorrt import open_plan\n"
        "from runtime.errors import MissingBackendError\nimport runtime.gpu as g\ng.DRIVER_NAMES = ('libnothing.so',)\n"
        "try:\n    open_plan(Path('x.plan'))\nexcept MissingBackendError as e:\n    print(e)\n"
        "print([m for m in ('tensorrt', 'tensorrt_rtx', 'torch', 'cuda') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    told, loaded = run.stdout.strip().splitlines()
    assert "--backend onnx" in told and loaded == "[]"
