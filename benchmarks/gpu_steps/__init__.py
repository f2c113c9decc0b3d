"""The steps of `benchmarks/gpu.py`, in the order of their worth: correctness, speed, peers, then what explains them."""

from __future__ import annotations

from gpu_steps.harness import Step

STEPS = (
    Step(
        name="machine",
        what="device, versions, what is importable, attention backends, matmul and copy ceilings",
        function="gpu_steps.machine:machine",
        seconds={"cuda": 30, "cpu": 5},
        required=True,
    ),
    Step(
        name="loss_gradients",
        what="every loss variant's value and gradients against fp64",
        function="gpu_steps.gradients:loss_gradients",
        seconds={"cuda": 40, "cpu": 3},
        required=True,
    ),
    Step(
        name="model_gradients",
        what="a trial's gradients in fp32, bf16 and FP8 against a plain model in fp64",
        function="gpu_steps.gradients:model_gradients",
        seconds={"cuda": 90, "cpu": 3},
        required=True,
    ),
    Step(
        name="fp8_losses",
        what="short trainings in fp32, bf16 and FP8 end at the same loss",
        function="gpu_steps.trainings:fp8_losses",
        seconds={"cuda": 90, "cpu": 8},
        required=True,
    ),
    Step(
        name="out_of_memory",
        what="is an outcome, leaves nothing behind, and the next trial is unharmed",
        function="gpu_steps.trainings:out_of_memory",
        seconds={"cuda": 60, "cpu": 8},
        required=True,
    ),
    Step(
        name="memory_cap",
        what="a job's memory_bytes ends what would fit without, and doesn't outlast the job",
        function="gpu_steps.trainings:memory_cap",
        seconds={"cuda": 50, "cpu": 5},
        required=True,
    ),
    Step(
        name="flagship",
        what="speed, MFU and memory of 32 × 768 by micro-batch, precision and head",
        function="gpu_steps.speed:flagship",
        seconds={"cuda": 260, "cpu": 25},
    ),
    Step(
        name="profile",
        what="where a flagship step's time goes, by kernel",
        function="gpu_steps.kernels:profile",
        seconds={"cuda": 45, "cpu": 10},
    ),
    Step(
        name="peers",
        what="the flagship against Hugging Face and a plain loop, interleaved; first steps cold and warm",
        function="gpu_steps.rivals:peers",
        seconds={"cuda": 420, "cpu": 90},
    ),
    Step(
        name="presets",
        what="the guide's five presets in bf16 and FP8, at the guide's micro-batches",
        function="gpu_steps.speed:presets",
        seconds={"cuda": 220, "cpu": 30},
    ),
    Step(
        name="auto",
        what="what precision auto's probes choose, against repeated measurements",
        function="gpu_steps.speed:auto",
        seconds={"cuda": 330, "cpu": 40},
    ),
    Step(
        name="many_shapes",
        what="20 shapes in one process: no graph break, no memory kept",
        function="gpu_steps.trainings:many_shapes",
        seconds={"cuda": 180, "cpu": 20},
    ),
    Step(
        name="table",
        what="the six rows of the guide's table in bf16 and FP8",
        function="gpu_steps.speed:table",
        seconds={"cuda": 260, "cpu": 30},
    ),
    Step(
        name="losses_timed",
        what="each loss variant's time and memory",
        function="gpu_steps.kernels:losses",
        seconds={"cuda": 60, "cpu": 15},
    ),
    Step(
        name="attention_timed",
        what="each attention backend's time at the flagship's heads",
        function="gpu_steps.kernels:attention",
        seconds={"cuda": 20, "cpu": 5},
    ),
    Step(
        name="memory",
        what="predicted against measured memory over shapes and micro-batches",
        function="gpu_steps.speed:memory",
        seconds={"cuda": 150, "cpu": 30},
    ),
    Step(
        name="compile",
        what="first steps cold and warm, by depth and precision",
        function="gpu_steps.rivals:compile_times",
        seconds={"cuda": 200, "cpu": 60},
    ),
)
