"""What the published implementation computes from small random weights, token for token."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dimoo.config import LLaDAConfig
from dimoo.layout import Branch, size_buckets
from dimoo.model import DiMOO
from dimoo.noise import PublishedNoise
from dimoo.packed import Packed
from dimoo.passes import MLCache
from dimoo.sampler import ImageSampling, TextSampling, unmask_image, unmask_text

FOLDER = Path(__file__).parent / "golden"
FACTS = json.loads((FOLDER / "cases.json").read_text())
IDS, CASES = FACTS["ids"], FACTS["cases"]
DATA = load_file(FOLDER / "cases.safetensors")
CODES = slice(IDS["image_offset"], IDS["image_offset"] + FACTS["config"]["codebook_size"])


@pytest.fixture(scope="module")
def model():
    model = DiMOO(LLaDAConfig(**FACTS["config"])).eval()
    model.load_state_dict(load_file(FOLDER / "transformer.safetensors"))
    return model


def image_branches(name):
    """The conditional sequence, then the same answer after each other prompt that the case has."""
    sequence, case = DATA[f"{name}.sequence"], CASES[name]
    answer = (sequence == IDS["answer"]).nonzero()[-1].item()
    cells = torch.arange(case["code_start"], len(sequence))
    cells = cells[(sequence[cells] == IDS["mask"]) | (sequence[cells] >= CODES.start)]
    branches = [Branch(sequence, cells)]
    for other in ("uncond", "uncond_text", "uncond_image"):
        prompt = DATA.get(f"{name}.{other}")
        if prompt is not None:
            shift = len(prompt) - answer
            branches.append(Branch(torch.cat([prompt, sequence[answer:]]), cells + shift))
    return branches


def recorded_noise(name):
    """The published draws of a case; fails when asked for more or other numbers than were drawn."""
    count = sum(key.startswith(f"{name}.uniform") for key in DATA)
    numbers = iter([DATA[f"{name}.uniform{index}"] for index in range(count)])

    def rand(count):
        drawn = next(numbers)
        assert len(drawn) == count
        return drawn

    return PublishedNoise(rand), numbers


def test_forward(model):
    ids = DATA["forward.ids"]
    logits = model.predict(Packed.of([ids]), torch.arange(len(ids)))
    torch.testing.assert_close(logits, DATA["forward.logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["t2i", "t2i_greedy", "t2i_no_cfg", "inpaint", "i2i", "ml_cache"])
def test_image(model, name):
    case = CASES[name]
    temperature = case["temperature"]
    sampling = ImageSampling(
        steps=case["steps"],
        guidance=case["cfg_scale"],
        guidance_image=case.get("cfg_image", 0.0),
        token_temperature=temperature,
        order_temperature=temperature,
        reuse=MLCache(**case["ml_cache"]) if "ml_cache" in case else None,
    )
    noise, left = recorded_noise(name)
    branches = image_branches(name)
    states = list(unmask_image(model.predict, branches, sampling, noise, CODES, IDS["mask"]))
    for state, entering in zip(states, DATA[f"{name}.entering"], strict=False):
        ids = torch.where(state.masked, IDS["mask"], state.tokens + CODES.start)
        assert ids.tolist() == entering[branches[0].cells].tolist(), f"entering step {state.step}"
    assert len(states) == case["steps"] + 1
    assert (states[-1].tokens + CODES.start).tolist() == DATA[f"{name}.tokens"].tolist()
    assert next(left, None) is None


@pytest.mark.parametrize("name", ["text", "text_one_block"])
def test_text(model, name):
    case, sequence = CASES[name], DATA[f"{name}.sequence"]
    cells = torch.arange(case["gen_length"]) + case["code_start"]
    sampling = TextSampling(steps=case["steps"], block=case["block_length"])
    whole = slice(0, FACTS["config"]["vocab_size"])
    *_, last = unmask_text(model.predict, Branch(sequence, cells), sampling, whole, IDS["mask"])
    assert last.step == case["steps"]
    assert last.ids.tolist() == DATA[f"{name}.result"][cells].tolist()


@pytest.mark.parametrize("side", [256, 512, 1024])
def test_crop_sizes(side):
    assert [list(size) for size in size_buckets(side)] == CASES["crop_sizes"][str(side)]


def test_published_noise_from_a_seed_draws_the_recorded_numbers():
    case, noise = CASES["t2i"], PublishedNoise.seeded(CASES["t2i"]["seed"])
    cells = torch.arange(case["height"] * case["width"])
    logits = torch.zeros(len(cells), FACTS["config"]["codebook_size"])
    noise.draw(0, cells, logits, 1.0)
    assert torch.equal(noise.order(0, cells), DATA["t2i.uniform1"])
