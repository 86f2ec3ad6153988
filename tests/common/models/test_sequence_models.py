"""Sequence networks: a padded batch gives what each study gives alone."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from study_batches import padded, random_sequences
from torch import nn

from common.errors import InputError
from common.models.masked import (
    RotaryAttention,
    convolution,
    masked_batch_norm,
    masked_convolution,
    step_mask,
)
from common.models.study import SEQUENCE_MODELS, build_sequence_model

DIMS = [7, 5]
NAMES = list(SEQUENCE_MODELS)
# study-linear sees a slice alone, and nothing but features and logits.
OF_SERIES = [name for name in NAMES if name != "study-linear"]


def build(name, **changes):
    torch.manual_seed(0)
    options = {"feature_dims": DIMS, "num_networks": 2, "dim": 16, "hidden": 5, "num_heads": 2}
    model = build_sequence_model({"name": name, "num_labels": 3, **options, **changes})
    with torch.no_grad():  # what starts at zero would hide a difference
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def in_double(batch: dict) -> dict:
    features = [values.double() for values in batch["features"]]
    others = {n: v if n == "lengths" else v.double() for n, v in batch.items() if n != "features"}
    return {**others, "features": features}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=5)
@given(
    lengths=st.lists(st.integers(1, 17), min_size=1, max_size=5),
    extra=st.integers(0, 6),
    seed=st.integers(0, 99),
)
def test_padded_batch_gives_what_each_study_gives_alone(name, lengths, extra, seed):
    model = build(name).eval()
    sequences = random_sequences(lengths, DIMS, 6, seed)
    with torch.no_grad():
        together = model(padded(sequences, extra))
        for row, alone in enumerate(sequences):
            for key, value in model(alone).items():
                found = together[key][row, : int(alone["lengths"])]
                torch.testing.assert_close(found, value[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=3)
@given(lengths=st.lists(st.integers(1, 17), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_more_padding_changes_nothing_in_training(name, lengths, seed):
    """Outputs, gradients and statistics, in float64; without dropout."""
    sequences = random_sequences(lengths, DIMS, 6, seed)
    results = []
    for extra, filling in ((0, 0.0), (5, 1e3)):
        model = build(name).train().double()
        batch = in_double(padded(sequences, extra, filling))
        outputs = model(batch)
        mask = step_mask(batch["lengths"], batch["logits"].shape[1])
        values = torch.cat([value[mask] for value in outputs.values()])
        values.square().sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        results.append((values.detach(), gradients, [b.clone() for b in model.buffers()]))
    (one, one_gradients, one_buffers), (two, two_gradients, two_buffers) = results
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one_buffers, two_buffers, atol=1e-5, rtol=1e-5)
    for a, b in zip(one_gradients, two_gradients, strict=True):
        scale = float(a.abs().max()) + 1.0
        torch.testing.assert_close(a / scale, b / scale, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "study-first_place"])
def test_in_training_a_padded_batch_gives_what_each_study_gives_alone(name):
    """First place has batch statistics, so that there a study alone is another batch."""
    model = build(name).train()
    sequences = random_sequences([1, 9, 4], DIMS, 6)
    together = model(padded(sequences, 2))["logits"]
    for row, alone in enumerate(sequences):
        found = together[row, : int(alone["lengths"])]
        torch.testing.assert_close(found, model(alone)["logits"][0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", OF_SERIES)
def test_untrained_network_says_what_the_slice_networks_say(name):
    model = build_sequence_model({"name": name, "num_labels": 3, "num_networks": 2, "dim": 16})
    inputs = random_sequences([6], [], 6)[0]
    logits = model.eval()(inputs)["logits"]
    mean = inputs["logits"].view(1, 6, 2, 3).mean(dim=2)
    torch.testing.assert_close(logits, mean)


def test_a_linear_head_is_a_matrix_and_a_bias_for_each_slice():
    model = build("study-linear").eval()
    inputs = random_sequences([4], DIMS, 6)[0]
    found = model(inputs)["logits"][0]
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    for slice_number in range(4):
        features = torch.cat([values[0, slice_number] for values in inputs["features"]]).numpy()
        expected = state["head.weight"] @ features + state["head.bias"]
        expected += state["skip.weight"] @ inputs["logits"][0, slice_number].numpy()
        expected += state["skip.bias"]
        torch.testing.assert_close(found[slice_number], torch.tensor(expected))


@pytest.mark.parametrize("name", OF_SERIES)
def test_a_slice_sees_its_neighbours_and_every_input_matters(name):
    model = build(name).eval()
    inputs = random_sequences([9], DIMS, 6)[0]
    before = model(inputs)["logits"]
    for key, position in (("logits", 0), ("features", 0), ("features", 1), ("metadata", 0)):
        changed = copy.deepcopy(inputs)
        tensor = changed[key][position] if key == "features" else changed[key]
        tensor.view(9, -1)[3] += 3.0
        after = model(changed)["logits"]
        assert not torch.allclose(before[0, 4], after[0, 4], atol=1e-6), key


@pytest.mark.parametrize("name", NAMES)
def test_without_metadata_it_does_not_matter(name):
    model = build(name, metadata=False).eval()
    inputs = random_sequences([9], DIMS, 6)[0]
    before = model(inputs)["logits"]
    torch.testing.assert_close(
        before, model({**inputs, "metadata": inputs["metadata"] * 2})["logits"]
    )


def test_specification_makes_the_same_network():
    model = build("study-first_place")
    again = build_sequence_model(model.specification)
    again.load_state_dict(model.state_dict())
    inputs = random_sequences([5], DIMS, 6)[0]
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(inputs), again.eval()(inputs))


def test_unknown_name_is_an_error_of_the_user():
    with pytest.raises(InputError, match="study-bigru"):
        build_sequence_model({"name": "study-bigruu", "num_labels": 3})


def test_masked_batch_norm_is_batch_norm_of_the_steps():
    torch.manual_seed(0)
    values, mask = torch.randn(3, 6, 4), step_mask(torch.tensor([6, 2, 1]), 6)
    masked, plain = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    found = masked_batch_norm(masked, values, mask)
    torch.testing.assert_close(found[mask], plain(values[mask]))
    assert (found[~mask] == 0).all()
    torch.testing.assert_close(masked.running_var, plain.running_var)


def test_masked_batch_norm_of_one_step_takes_the_running_statistics():
    norm = nn.BatchNorm1d(4).train()
    values = torch.randn(1, 1, 4)
    found = masked_batch_norm(norm, values, torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(found, values / (1 + norm.eps) ** 0.5)
    assert norm.num_batches_tracked == 0 and norm.training


def test_masked_convolution_sees_zeros_beyond_the_end():
    torch.manual_seed(0)
    layer = convolution(3, 4, 3, dilation=2)
    values = torch.randn(1, 7, 3)
    mask = step_mask(torch.tensor([5]), 7)
    alone = masked_convolution(layer, values[:, :5], mask[:, :5])
    torch.testing.assert_close(masked_convolution(layer, values, mask)[:, :5], alone)


def test_attention_depends_on_distances_in_mm_alone():
    torch.manual_seed(0)
    layer = RotaryAttention(16, 2)
    values, mask = torch.randn(1, 6, 16), torch.ones(1, 6, dtype=torch.bool)
    position_mm = torch.tensor([[0.0, 5, 10, 12.5, 15, 20]])
    before = layer(values, position_mm, mask)
    torch.testing.assert_close(before, layer(values, position_mm + 30, mask), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before, layer(values, position_mm * 2, mask), atol=1e-4)
