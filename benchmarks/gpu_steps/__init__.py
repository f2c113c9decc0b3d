"""The steps of `benchmarks/gpu.py`, in the order of their worth: correctness, speed, peers, then what explains them."""

from __future__ import annotations

from gpu_steps import ahead, costs
from gpu_steps.harness import Step
from gpu_steps.scale import CUDA

_LOSSES = 4 * len(CUDA.loss_cases)
_COMPILED = len(CUDA.compiled_precisions)
_TRACED_S = costs.TORCHAO_S + costs.FIRST_TRACE_S + (_COMPILED - 1) * costs.TRACE_S
_FLAGSHIP_ROWS = len(CUDA.micro_batches) * len(CUDA.speed_precisions)
_PRESETS = ahead.preset_jobs(CUDA)
_WHOLE_MODELS = 2

STEPS = (
    Step(
        name="machine",
        what="device, versions, what is importable, attention backends, matmul and copy ceilings",
        function="gpu_steps.machine:machine",
        seconds={"cuda": costs.PROCESS_S + 6, "cpu": 5},
        required=True,
    ),
    Step(
        name="ahead",
        what="the blocks of the steps that follow and of the flagship are compiled, side by side",
        function="gpu_steps.ahead:correctness_and_flagship",
        seconds={"cuda": costs.wave(len(ahead.first_jobs(CUDA)), at_once=ahead.MOST_AT_ONCE), "cpu": 20},
        required=True,
        each_run=True,
    ),
    Step(
        name="loss_gradients",
        what="every loss variant's value and gradients against fp64",
        function="gpu_steps.gradients:loss_gradients",
        # Two compiled losses, each a graph of a few kernels, and uncompiled ones.
        seconds={"cuda": costs.PROCESS_S + costs.FIRST_TRACE_S + costs.TRACE_S + 0.1 * _LOSSES, "cpu": 3},
        required=True,
    ),
    Step(
        name="model_gradients",
        what="a trial's gradients in fp32, bf16 and FP8 against a plain model in fp64",
        function="gpu_steps.gradients:model_gradients",
        seconds={"cuda": costs.PROCESS_S + _TRACED_S + 2 * costs.SMALL_S, "cpu": 3},
        required=True,
    ),
    Step(
        name="fp8_losses",
        what="short trainings in fp32, bf16 and FP8 end at the same loss",
        function="gpu_steps.trainings:fp8_losses",
        seconds={"cuda": costs.PROCESS_S + _TRACED_S + 3 * costs.SMALL_S, "cpu": 8},
        required=True,
    ),
    Step(
        name="out_of_memory",
        what="is an outcome, leaves nothing behind, and the next trial is unharmed",
        function="gpu_steps.trainings:out_of_memory",
        seconds={"cuda": costs.PROCESS_S + 2 * costs.SMALL_SPEED_S + 1, "cpu": 8},
        required=True,
    ),
    Step(
        name="memory_cap",
        what="a job's memory_bytes ends what would fit without, and doesn't outlast the job",
        function="gpu_steps.trainings:memory_cap",
        seconds={"cuda": costs.PROCESS_S + 4 * costs.SMALL_S, "cpu": 5},
        required=True,
    ),
    Step(
        name="settled",
        what="what only CUDA can show: living bytes after jobs, fp32 with grouped queries, memory beside the allocator",
        function="gpu_steps.settled:settled",
        seconds={"cuda": costs.PROCESS_S + costs.FIRST_TRACE_S + 6 * costs.SMALL_SPEED_S, "cpu": 10},
    ),
    Step(
        name="flagship",
        what="speed, MFU and memory of 32 × 768 by micro-batch, precision and head, beside what was expected",
        function="gpu_steps.speed:flagship",
        # What isn't compiled ahead: FP8 without a filter; a tied head and Muon have the same blocks.
        seconds={"cuda": costs.speeds(_FLAGSHIP_ROWS + 3) + costs.COLD_S, "cpu": 25},
    ),
    # Right after the flagship, whose kernels lie on this machine's disk: another run may begin on a bare one.
    Step(
        name="profile",
        what="where a step's time goes, by kernel, and how long the device idles: the flagship, and a small shape",
        function="gpu_steps.kernels:profile",
        seconds={"cuda": costs.speeds(len(CUDA.speed_precisions)) + costs.TRACE_S + 2, "cpu": 10},
    ),
    Step(
        name="activations",
        what="what a compiled layer and the head hold, against what a plan predicts",
        function="gpu_steps.settled:activations",
        # Four layers, and two heads, which aren't compiled ahead.
        seconds={
            "cuda": costs.wave(4, at_once=ahead.MOST_AT_ONCE)
            + costs.PROCESS_S
            + costs.TORCHAO_S
            + costs.FIRST_TRACE_S
            + 5 * costs.TRACE_S,
            "cpu": 60,
        },
    ),
    Step(
        name="presets",
        what="the guide's five presets in bf16 and FP8, at the guide's micro-batches, beside what was expected",
        function="gpu_steps.speed:presets",
        seconds={
            "cuda": costs.wave(len(_PRESETS), at_once=ahead.MOST_AT_ONCE) + costs.speeds(len(_PRESETS)),
            "cpu": 30,
        },
    ),
    Step(
        name="peers",
        what="the flagship against a plain loop and Hugging Face, interleaved; first steps cold",
        function="gpu_steps.rivals:peers",
        # All compile at once; then warm-up steps and windows of a second each.
        seconds={
            "cuda": costs.PROCESS_S + costs.WHOLE_MODEL_COLD_S + 3 * (5 + costs.SPEED_S + CUDA.peer_windows),
            "cpu": 90,
        },
    ),
    Step(
        name="attention_timed",
        what="each attention backend's time at the flagship's heads, and which one torch picks",
        function="gpu_steps.kernels:attention",
        seconds={"cuda": costs.PROCESS_S + 5, "cpu": 5},
    ),
    Step(
        name="auto",
        what="what precision auto's probes choose, against repeated measurements",
        function="gpu_steps.speed:auto",
        seconds={"cuda": costs.cold_speeds(2 * 2) + costs.speeds(2 + 3 * 4), "cpu": 40},
    ),
    Step(
        name="many_shapes",
        what="20 shapes in one process: no graph break, no memory kept",
        function="gpu_steps.trainings:many_shapes",
        seconds={"cuda": costs.PROCESS_S + CUDA.many_shapes * (0.4 * costs.COLD_S + costs.SMALL_SPEED_S), "cpu": 20},
    ),
    Step(
        name="table",
        what="the six rows of the guide's table in bf16 and FP8",
        function="gpu_steps.speed:table",
        # Three FFNs at one micro-batch: 2048's blocks are the flagship's.
        seconds={"cuda": costs.speeds(2 * len(CUDA.table)) + 2 * 3 * costs.COLD_S, "cpu": 30},
    ),
    Step(
        name="losses_timed",
        what="each loss variant's time and memory",
        function="gpu_steps.kernels:losses",
        seconds={"cuda": 60, "cpu": 15},
    ),
    Step(
        name="memory",
        what="predicted against measured memory over shapes and micro-batches",
        function="gpu_steps.speed:memory",
        seconds={"cuda": costs.cold_speeds(2 * len(CUDA.memory_grid)) / 2, "cpu": 30},
    ),
    Step(
        name="compile",
        what="first steps cold and warm, by depth and precision",
        function="gpu_steps.rivals:compile_times",
        seconds={"cuda": costs.PROCESS_S + 6 * costs.FRESH_PROCESS_S + 3 * (costs.COLD_S + 5), "cpu": 60},
    ),
)
