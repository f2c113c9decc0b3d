"""What people write by hand: a Ray Tune function trainable for each trial, torch.compile, no sweeper.

    python benchmarks/ray_script.py JOBS.json whole|blocks

`JOBS.json` has the trials, what they share and where the tokens lie; prints one JSON object with what came out.
"""

import json
import os
import sys
import time
from pathlib import Path

import ray
from ray import tune

HERE = Path(__file__).parent


def train(config):
    """One trial: model, compile, steps, evaluation; reports its loss and the seconds that were of use."""
    started = time.perf_counter()
    os.environ["OMP_NUM_THREADS"] = str(config["cpus"])
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    import numpy as np
    import torch
    from plain_model import PlainModel

    from sweeper.model.shape import derive

    torch.manual_seed(0)
    model = PlainModel(derive(config["shape"]), config["seq_len"])
    if config["compile"] == "whole":
        loss_of = torch.compile(model)
    else:
        for layer in model.layers:
            layer.compile()
        loss_of = model
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"], betas=(0.9, 0.95), fused=True)
    tokens = np.memmap(config["train"], dtype=config["dtype"], mode="r")
    held_out = np.memmap(config["held_out"], dtype=config["dtype"], mode="r")

    def batch(source, starts):
        rows = np.stack([source[i : i + config["seq_len"] + 1] for i in starts]).astype(np.int64)
        return torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(rows[:, 1:].copy())

    draw = np.random.default_rng(0)
    steps, taken, first = config["steps"], 0.0, 0.0
    for step in range(steps):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = config["lr"] * min(1.0, (step + 1) / (0.04 * steps), (steps - step) / (0.2 * steps))
        loss = loss_of(*batch(tokens, draw.integers(len(tokens) - config["seq_len"] - 1, size=config["batch_size"])))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step:
            taken += time.perf_counter() - start
        else:
            first = time.perf_counter() - start
    taken *= steps / max(1, steps - 1)  # the first step's share that isn't compilation
    start = time.perf_counter()
    losses = []
    windows = config["eval_tokens"] // config["seq_len"]
    places = np.arange(windows) * ((len(held_out) - 1) // config["seq_len"]) // windows * config["seq_len"]
    with torch.no_grad():
        for i in range(0, windows, config["batch_size"]):
            losses.append(float(loss_of(*batch(held_out, places[i : i + config["batch_size"]]))))
    evaluated = time.perf_counter() - start
    tune.report(
        {
            "val_loss": float(np.mean(losses)),
            "useful_s": taken + evaluated,
            "first_step_s": first,
            "seconds": time.perf_counter() - started,
            "tokens_per_s": steps * config["batch_size"] * config["seq_len"] / taken,
        }
    )


def main():
    """Run all trials, one at a time, each with every core."""
    started = time.perf_counter()
    setting = json.loads(Path(sys.argv[1]).read_text())
    jobs = setting.pop("jobs")
    ray.init(address="local", include_dashboard=False, log_to_driver=False, num_cpus=setting["cpus"])
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": setting["cpus"]}),
        param_space={**setting, "compile": sys.argv[2], "job": tune.grid_search(jobs), "shape": None, "steps": None}
        | {
            "shape": tune.sample_from(lambda config: config["job"]["shape"]),
            "steps": tune.sample_from(lambda config: config["job"]["steps"]),
        },
        run_config=tune.RunConfig(verbose=0, storage_path=setting["storage"]),
    )
    results = [{"shape": one.config["job"]["shape"], **one.metrics} for one in tuner.fit()]
    ray.shutdown()
    keys = ("shape", "val_loss", "useful_s", "first_step_s", "seconds", "tokens_per_s")
    print(json.dumps({"wall_s": time.perf_counter() - started, "trials": [{k: r[k] for k in keys} for r in results]}))


if __name__ == "__main__":
    main()
