"""Reading what a Jetson says of itself; the lines follow the forms of JetPack 4 to 7, written for these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import MissingBackendError
from runtime.jetson import (
    GpuClock,
    PowerMeter,
    PowerMode,
    clock_warnings,
    parse_power_mode,
    parse_tegrastats,
    read_gpu_clock,
    read_rails,
    summarise,
)

ORIN_NANO_JP6 = (
    "03-02-2026 10:11:12 RAM 3010/7620MB (lfb 4x4MB) SWAP 0/3810MB (cached 0MB) "
    "CPU [12%@1510,3%@1510,0%@1510,1%@1510,0%@729,0%@729] EMC_FREQ 3%@2133 GR3D_FREQ 47%@[624] NVDEC off "
    "cpu@48.031C soc2@46.9C soc0@47.2C gpu@48.5C tj@48.5C soc1@47.1C "
    "VDD_IN 6210mW/5873mW VDD_CPU_GPU_CV 1940mW/1410mW VDD_SOC 1560mW/1522mW"
)
AGX_ORIN_JP7 = (
    "07-08-2026 09:00:01 RAM 9000/62817MB (lfb 2x4MB) CPU [20%@2201,off,4%@2201] EMC_FREQ 2%@3199 "
    "GR3D_FREQ 88%@[1300,1290] APE 174 cpu@51.5C/51.9C gpu@47.6C/47.8C "
    "VDD_GPU_SOC 5100mW/5000mW/5400mW VDD_CPU_CV 3200mW/3100mW/3300mW VIN_SYS_5V0 5500mW/5500mW/5600mW"
)
XAVIER_JP5 = "RAM 2000/6857MB (lfb 1x4MB) CPU [5%@1190] GR3D_FREQ 0% AO@38C GPU@36.5C VDD_IN 4012mW/4012mW"
NANO_JP4 = (
    "RAM 1500/3964MB (lfb 10x4MB) CPU [10%@102,off,off,off] EMC_FREQ 0% GR3D_FREQ 5%@76 PLL@31C CPU@34C "
    "POM_5V_IN 1800/1750 POM_5V_GPU 40/40 POM_5V_CPU 240/230"
)
THOR_JP7 = "RAM 4700/125000MB (lfb 1x4MB) EMC_FREQ 2%@1866 GR3D_FREQ @[1000,1000,990] gpu@40.1C VIN 31000mW/30000mW"


@pytest.mark.parametrize(
    ("line", "total", "percent", "clocks", "heat"),
    [
        (ORIN_NANO_JP6, 6210, 47, (624,), 48.5),
        (AGX_ORIN_JP7, 13800, 88, (1300, 1290), 47.6),
        (XAVIER_JP5, 4012, 0, (), 36.5),
        (NANO_JP4, 1800, 5, (76,), None),
        (THOR_JP7, 31000, None, (1000, 1000, 990), 40.1),
        ("nothing that is known", None, None, (), None),
    ],
)
def test_tegrastats(line: str, total: int | None, percent: int | None, clocks: tuple[int, ...], heat: float) -> None:
    sample = parse_tegrastats(line)
    assert (sample.total_mw, sample.gpu_percent, sample.gpu_mhz) == (total, percent, clocks)
    assert sample.temperatures.get("gpu") == heat


def test_rails_are_not_memory_or_clocks() -> None:
    assert set(parse_tegrastats(ORIN_NANO_JP6).rails) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
    assert set(parse_tegrastats(NANO_JP4).rails) == {"POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"}


def hwmon(root: Path, rails: dict[str, tuple[int, int]]) -> Path:
    folder = root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    folder.mkdir(parents=True)
    for index, (name, (millivolts, milliamperes)) in enumerate(rails.items(), 1):
        (folder / f"in{index}_label").write_text(f"{name}\n")
        (folder / f"in{index}_input").write_text(f"{millivolts}\n")
        (folder / f"curr{index}_input").write_text(f"{milliamperes}\n")
    return root


def test_ina_sensors(tmp_path: Path) -> None:
    assert read_rails(tmp_path) == {}
    hwmon(tmp_path, {"VDD_IN": (5000, 1240), "VDD_SOC": (5000, 312)})
    (tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/in7_label").write_text("sum of shunt voltages\n")
    assert read_rails(tmp_path) == {"VDD_IN": 6200, "VDD_SOC": 1560}
    old = tmp_path / "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    old.mkdir(parents=True)
    (old / "rail_name_0").write_text("POM_5V_IN")
    (old / "in_power0_input").write_text("1800")
    assert read_rails(tmp_path)["POM_5V_IN"] == 1800


def test_power_over_some_work(tmp_path: Path) -> None:
    with pytest.raises(MissingBackendError, match="no INA3221 power sensors"):
        PowerMeter(tmp_path)
    hwmon(tmp_path, {"VDD_IN": (5000, 1000)})
    with PowerMeter(tmp_path, period=0.001) as meter:
        pass
    use = meter.use()
    assert use.samples >= 1 and use.total_mw == 5000
    assert summarise([{"VDD_IN": 4000}, {"VDD_IN": 6000, "X": 1}], 2.0).millijoules(100) == 100.0
    assert summarise([], 1.0).millijoules(1) is None


def test_power_mode_and_clocks(tmp_path: Path) -> None:
    mode = parse_power_mode("NV Fan Mode:quiet\nNV Power Mode: 15W\n0\n")
    assert mode == PowerMode("15W", 0) and parse_power_mode("no such thing") is None
    folder = tmp_path / "sys/class/devfreq/17000000.gpu"
    folder.mkdir(parents=True)
    (folder / "cur_freq").write_text("306000000\n")
    assert read_gpu_clock(tmp_path) is None
    (folder / "max_freq").write_text("624750000\n")
    clock = read_gpu_clock(tmp_path)
    assert clock == GpuClock(306, 624)
    told = clock_warnings(mode, clock)
    assert "power mode 15W" in told[0] and "306 of 624 MHz" in told[1]
    assert clock_warnings(PowerMode("MAXN_SUPER", 2), GpuClock(624, 624)) == []
