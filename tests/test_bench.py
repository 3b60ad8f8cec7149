"""The benchmark: what it times is what ran."""

import json
import time
from argparse import ArgumentParser
from dataclasses import replace

import pytest

from dimoo.evals import bench, memory
from dimoo.tasks import Generate


def test_calls_are_timed_and_methods_put_back():
    class Clerk:
        def work(self, seconds):
            time.sleep(seconds)
            return seconds

    original, waits = Clerk.work, []
    with bench.timed(Clerk, "work", lambda: waits.append(1)) as seconds:
        assert Clerk().work(0.02) == 0.02
        with pytest.raises(TypeError):
            Clerk().work()
    assert Clerk.work is original and len(seconds) == 2 and len(waits) == 4
    assert 0.02 <= seconds[0] < 2 and seconds[1] < 0.02


def test_a_run_and_its_parts(pipeline):
    request = Generate("a red ball", width=128, height=128, steps=4, seed=0)
    bench.time_run(pipeline, request)  # brings the preview table
    timing = bench.time_run(pipeline, request)
    assert timing.steps == 4 and timing.result.size == (128, 128)
    assert 0 < timing.first_step < timing.seconds
    assert timing.preview > 0 and timing.decode > 0 and timing.preview + timing.decode < timing.seconds


def test_the_numbers_of_the_command(pipeline, monkeypatch, tmp_path, capsys):
    small = {"width": 64, "height": 64, "steps": 4, "answer_length": 8, "answer_block": 4, "answer_steps": 4}
    quick = replace(pipeline, defaults=replace(pipeline.defaults, **small))
    monkeypatch.setattr(bench, "loaded", lambda options: quick)
    parser = ArgumentParser()
    bench.arguments(parser, "bench")
    measured = {"small": {f"{part} {how}": 1e6 for part in ("step", "decoder") for how in ("estimated", "measured")}}
    monkeypatch.setattr(memory, "measure", lambda: measured)
    path = tmp_path / "bench.json"
    assert bench.main(parser.parse_args(["--repeat", "1", "--memory", "--json", str(path)])) == 0
    written = json.loads(path.read_text())
    numbers = written["bench"]
    assert written["memory"] == measured
    assert numbers["size"] == "64x64" and numbers["steps"] == 4
    assert all(value > 0 for value in numbers.values() if isinstance(value, float))
    assert 0 < numbers["first step seconds"] < numbers["run seconds"]
    assert numbers["preview share"] + numbers["decode share"] < 1
    out = capsys.readouterr().out
    assert all(name in out for name in [*numbers, "decoder"])
