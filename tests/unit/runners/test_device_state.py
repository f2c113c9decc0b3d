"""The device's state against a fake NVML: the right device, reasons as words, who else is there."""

import os
import sys
from types import SimpleNamespace

import pytest
import torch

from sweeper.runners.device import device_state
from sweeper.runners.device.device_state import DeviceInUse, DeviceState, require_alone, watch, watch_by_uuid, worst

GIB = 2**30


class FakeNvml(SimpleNamespace):
    """One device, GPU-abc. `missing` names functions that the driver refuses."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_TOTAL_POWER_SAMPLES, NVML_GPU_UTILIZATION_SAMPLES = 0, 1
    NVML_PROCESSOR_CLK_SAMPLES, NVML_MEMORY_CLK_SAMPLES = 5, 6
    NVML_FI_DEV_PERF_POLICY_POWER, NVML_FI_DEV_PERF_POLICY_THERMAL = 74, 75

    class NVMLError(Exception):
        pass

    def __init__(self, *, compute=(), graphics=(), used=0, reasons=0, missing=(), samples=None, slowed=None):
        super().__init__(started=0)
        self.kept, self.slowed = samples or {}, slowed or {}
        answers = {
            "nvmlDeviceGetHandleByUUID": self.handle,
            "nvmlDeviceGetClockInfo": lambda handle, which: {1: 1755, 2: 2619}[which],
            "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: reasons,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: reasons,
            "nvmlDeviceGetTemperature": lambda handle, sensor: 61,
            "nvmlDeviceGetPowerUsage": lambda handle: 512_500,
            "nvmlDeviceGetComputeRunningProcesses": lambda handle: self.processes(compute),
            "nvmlDeviceGetGraphicsRunningProcesses": lambda handle: self.processes(graphics),
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=used),
            "nvmlDeviceGetSamples": self.samples,
            "nvmlDeviceGetFieldValues": self.fields,
            "nvmlSystemGetProcessName": lambda pid: f"/usr/bin/python{pid}",
        }
        for name, answer in answers.items():
            setattr(self, name, self.refused if name in missing else answer)

    def nvmlInit(self):  # noqa: N802
        self.started += 1

    def handle(self, uuid):
        if uuid != "GPU-abc":
            raise self.NVMLError("not found")
        return "handle"

    def processes(self, listed):
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in listed]

    def samples(self, handle, kind, since):
        """Of {kind: [(microseconds, value)]}, as pynvml gives them: unsigned ints."""
        if not (newer := [one for one in self.kept.get(kind, ()) if one[0] > since]):
            raise self.NVMLError("not found")
        return 1, [SimpleNamespace(timeStamp=at, sampleValue=SimpleNamespace(uiVal=value)) for at, value in newer]

    def fields(self, handle, wanted):
        """Of {field: nanoseconds}; of another field that it isn't supported."""
        return [
            SimpleNamespace(
                fieldId=field, nvmlReturn=0 if field in self.slowed else 3,
                value=SimpleNamespace(ullVal=self.slowed.get(field, 0)),
            )
            for field in wanted
        ]  # fmt: skip

    def refused(self, *arguments):
        raise self.NVMLError("not supported")


@pytest.fixture
def watched(monkeypatch):
    def watched(*, own=0, **fields):
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(**fields))
        return watch_by_uuid("abc", own_bytes=lambda: own)

    return watched


def test_a_state_in_words_and_units(watched):
    state = watched(compute=[(os.getpid(), GIB)], reasons=0x4 | 0x20 | 0x40).state()
    assert state.to_dict() == {
        "clocks_mhz": {"sm": 1755, "memory": 2619},
        "throttle_reasons": ["power cap", "software thermal slowdown", "hardware thermal slowdown"],
        "temperature_c": 61,
        "power_w": 512.5,
        "other_processes": 0,
    }


@pytest.mark.parametrize("bits", [0x0, 0x1, 0x2, 0x100])
def test_idling_and_chosen_clocks_are_no_throttling(watched, bits):
    assert watched(reasons=bits).state().throttle_reasons == ()


def test_what_the_driver_does_not_tell_is_none(watched):
    figures = ("ClockInfo", "CurrentClocksEventReasons", "CurrentClocksThrottleReasons", "Temperature", "PowerUsage",
               "ComputeRunningProcesses", "GraphicsRunningProcesses", "MemoryInfo")  # fmt: skip
    state = watched(missing=[f"nvmlDeviceGet{figure}" for figure in figures]).state()
    assert state == DeviceState(
        clocks_mhz={"sm": None, "memory": None}, throttle_reasons=None, temperature_c=None, power_w=None,
        other_processes=0,
    )  # fmt: skip


def test_an_old_driver_names_its_reasons_otherwise(watched):
    reasons = watched(missing=["nvmlDeviceGetCurrentClocksEventReasons"], reasons=0x8).state().throttle_reasons
    assert reasons == ("hardware slowdown",)


SECOND = 1_000_000


@pytest.fixture
def window(watched, monkeypatch):
    """A watch, and its state and busy share in a window of one second that ends at second 11 with `during`."""

    def window(*, samples, during=(), missing=(), reasons=0, **before):
        clock = iter([10 * SECOND])
        monkeypatch.setattr(device_state, "_now_us", lambda: next(clock, 11 * SECOND))
        looking = watched(samples=samples, reasons=reasons, missing=missing, slowed=before.get("slowed"))
        since = looking.mark()
        looking._nvml.slowed.update(during)
        return looking.state(since), looking.busy(since)

    return window


def test_a_window_is_told_by_what_the_driver_sampled_in_it(window):
    """Before the window and after it the device idles; the first sample of the window began before it."""
    at = [9.9, 10.1, 10.3, 10.5, 10.7, 11.2]
    kinds = {0: (90, 100, 500, 640, 600, 95), 1: (0, 50, 100, 80, 90, 0), 5: (345, 900, 1980, 1755, 1800, 345)}
    samples = {kind: [(int(t * SECOND), v) for t, v in zip(at, values, strict=True)] for kind, values in kinds.items()}
    samples[0] = [(t, 1000 * watts) for t, watts in samples[0]]
    state, busy = window(samples=samples)
    assert (state.clocks_mhz, state.power_w) == ({"sm": 1800, "memory": 2619}, 640.0)
    assert busy == pytest.approx(0.9)
    assert window(samples={1: [(int(10.5 * SECOND), 70)]})[1] == pytest.approx(0.7)


def test_slowing_down_is_told_by_how_long_it_lasted_in_the_window(window):
    """Counters go on from earlier slowdowns, and when the device is asked it idles: its bits say nothing of them."""
    before = {74: 5 * 10**9, 75: 7 * 10**9}
    for during, reasons, said in (
        ({}, 0x4, ()),
        ({74: 5 * 10**9 + 300_000_000}, 0, ("power cap",)),
        ({75: 7 * 10**9 + 20_000_000}, 0x8, ("hardware slowdown", "software thermal slowdown")),
        ({74: 5 * 10**9 + 9_000_000}, 0, ()),
    ):
        assert window(samples={}, slowed=before, during=during, reasons=reasons)[0].throttle_reasons == said
    gone = ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"]
    state, _ = window(samples={}, slowed=before, during={74: 6 * 10**9}, missing=gone)
    assert state.throttle_reasons == ("power cap",)


def test_where_the_driver_keeps_no_records_what_it_says_afterwards_stands(window):
    state, busy = window(samples={}, missing=["nvmlDeviceGetSamples", "nvmlDeviceGetFieldValues"], reasons=0x4)
    assert state == DeviceState(
        clocks_mhz={"sm": 1755, "memory": 2619}, throttle_reasons=("power cap",), temperature_c=61, power_w=512.5,
        other_processes=0,
    )  # fmt: skip
    assert busy is None


def test_others_are_all_processes_but_ours(watched):
    alone = watched(compute=[(os.getpid(), 5 * GIB)], used=6 * GIB, own=5 * GIB)
    assert alone.others() == []
    shared = watched(compute=[(os.getpid(), GIB), (10**7, 3 * GIB)], graphics=[(10**7 + 1, None)], own=GIB)
    assert shared.others() == ["process 10000000 python10000000 (3.0 GiB)", "process 10000001 python10000001"]
    assert shared.state().other_processes == 2


def test_in_a_container_one_of_the_processes_is_taken_for_ours(watched):
    outside = 10**7
    assert watched(compute=[(outside, 0)], own=0).others() == []
    assert watched(compute=[(outside, None)], own=GIB).others() == []
    shared = watched(compute=[(outside, 8 * GIB), (outside + 1, 2 * GIB)], own=2 * GIB)
    assert shared.others() == ["process 10000000 python10000000 (8.0 GiB)"]


def test_memory_that_nobody_is_named_for_is_a_sign_of_others(watched):
    assert watched(used=4 * GIB, own=3 * GIB).others() == []
    assert watched(used=9 * GIB, own=3 * GIB).others() == ["processes that the driver doesn't name (6.0 GiB in use)"]


def test_without_nvml_there_is_no_watch(monkeypatch):
    assert watch(torch.device("cpu")) is None
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    assert watch_by_uuid("another", own_bytes=int) is None
    assert watch_by_uuid("GPU-abc", own_bytes=int) is not None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert watch_by_uuid("abc", own_bytes=int) is None


def test_the_installed_library_has_what_is_asked_of_it_and_says_by_itself_that_there_is_no_device():
    nvml = pytest.importorskip("pynvml")
    for name in vars(FakeNvml()):
        assert name in ("started", "kept", "slowed") or hasattr(nvml, name), name
    constants = [name for name in vars(FakeNvml) if name.startswith("NVML_")]
    assert {name: getattr(nvml, name) for name in constants} == {name: getattr(FakeNvml, name) for name in constants}
    for index, member in enumerate(device_state.VALUE_TYPES):
        assert hasattr(nvml.c_nvmlValue_t, member), index
    for bit, words in device_state.SLOWDOWNS.items():
        names = [n for n, value in vars(nvml).items() if n.startswith("nvmlClocksEventReason") and value == bit]
        assert any(words.split()[-1] in name.lower() for name in names), words
    if not torch.cuda.is_available():
        assert watch_by_uuid("abc", own_bytes=int) is None


def test_the_worst_of_several_states():
    def state(**fields):
        return DeviceState(**{
            "clocks_mhz": {"sm": 1980, "memory": 2619}, "throttle_reasons": (), "temperature_c": 50, "power_w": 300.0,
            "other_processes": 0, **fields,
        })  # fmt: skip

    several = [
        state(),
        state(clocks_mhz={"sm": 1200, "memory": None}, throttle_reasons=("power cap",), temperature_c=None),
        state(throttle_reasons=("hardware slowdown", "power cap"), power_w=700.0, other_processes=2),
    ]
    assert worst(several) == DeviceState(
        clocks_mhz={"sm": 1200, "memory": 2619}, throttle_reasons=("power cap", "hardware slowdown"),
        temperature_c=50, power_w=700.0, other_processes=2,
    )  # fmt: skip
    assert worst([]) is None
    assert worst([state(throttle_reasons=None)]).throttle_reasons is None


def test_a_worker_that_is_just_ending_is_waited_for(watched, monkeypatch):
    leaving = watched(compute=[(os.getpid(), GIB)], own=GIB)
    answers = iter([["process 7"], ["process 7"], []])
    monkeypatch.setattr(leaving, "others", lambda: next(answers))
    monkeypatch.setattr(device_state.time, "sleep", lambda seconds: None)
    require_alone(leaving)
    monkeypatch.setattr(device_state, "PATIENCE_SECONDS", 0.0)
    staying = watched(compute=[(os.getpid(), GIB), (10**7, 3 * GIB)], own=GIB)
    with pytest.raises(
        DeviceInUse, match=r"process 10000000 python10000000 \(3\.0 GiB\).*resources\.allow_shared: true"
    ):
        require_alone(staying)
    require_alone(None)
