from __future__ import annotations

import pytest
import torch
from torch import nn

from sgenet.classification import TrainConfig
from sgenet.classification.task import ClassificationTask, check_network
from sgenet.errors import ConfigError
from sgenet.models import create_model
from sgenet.training.task import step_seed


def test_seeds_of_steps_and_ranks_differ():
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(3)}
    assert len(seeds) == 3 * 50 * 3
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_a_network_that_cannot_take_the_images_is_an_error_before_work():
    network = create_model("resnet8_cifar", num_classes=10)
    check_network(network, TrainConfig(image_size=8, resize=None), 10)
    assert network.bn1.num_batches_tracked.item() == 0, "it is left as it was"
    with pytest.raises(ConfigError, match="5 classes"):
        check_network(network, TrainConfig(image_size=8, resize=None), 5)
    patches = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    with pytest.raises(ConfigError, match="image_size=8"):
        check_network(patches, TrainConfig(model="patches", image_size=8, resize=None), 10)


def test_a_network_that_needs_more_than_an_image_a_pass_is_an_error_before_work():
    """Its last map is a single position, of which a batch norm takes no statistics."""
    network = create_model("sge_resnet8_cifar", num_classes=10)

    def settings(**more):
        return TrainConfig(**{"image_size": 4, "resize": None, "batch_size": 4, **more})

    check_network(network, settings(), 10)
    check_network(network, settings(accumulate=2), 10)
    for one, world in ((settings(batch_size=1), 1), (settings(accumulate=4), 1), (settings(accumulate=2), 2)):
        with pytest.raises(ConfigError, match=r"one image a pass of image_size=4: Expected more.*larger batch_size"):
            check_network(network, one, 10, world)
    check_network(network, settings(batch_size=1, freeze_bn_from_epoch=1), 10)
    check_network(network, settings(batch_size=1, freeze_host=True, pretrained=True), 10)


def test_the_average_is_the_network_to_use_and_is_not_trained():
    config = TrainConfig(ema=0.9)
    task = ClassificationTask(create_model("resnet8_cifar", num_classes=2), config, classes=2, steps_per_epoch=3)
    assert task.weights is not task.network
    assert not any(p.requires_grad for p in task.weights.parameters())
    keys = {key.removeprefix(task.weights_prefix) for key in task.state_dict() if key.startswith(task.weights_prefix)}
    assert keys == set(task.network.state_dict())
    plain = ClassificationTask(create_model("resnet8_cifar", num_classes=2), TrainConfig(), 2, 3)
    assert plain.weights is plain.network


def test_an_average_follows_its_formula(data, config, stop_at):
    """Two steps: the first copies, the second is decay * old + (1 - decay) * new."""
    from sgenet.classification import train
    from sgenet.training.checkpointing import read_checkpoint

    def weights(steps: int, ema: float) -> dict[str, torch.Tensor]:
        settings = config(f"{steps}-{ema}", ema=ema, epochs=steps, batch_size=44, schedule="constant", warmup_epochs=0)
        result = train(settings, data=data, progress=stop_at())
        prefix = "average.module." if ema else "network."
        state = read_checkpoint(result.run / "checkpoints" / f"step-{steps:08d}", prefix)["state_dict"]
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    # Steps of the size of the whole set: an epoch is one step, and the settings differ in nothing else.
    one, two, averaged = weights(1, 0.0), weights(2, 0.0), weights(2, 0.75)
    for name, found in averaged.items():
        if found.is_floating_point():
            torch.testing.assert_close(found, 0.75 * one[name] + 0.25 * two[name])
