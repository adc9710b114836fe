"""The learning rate as a function of the step, in closed form: resuming at any step gives the value it would have had.

Source: cosine, arXiv 1608.03983, without restarts; linear warm-up, arXiv 1706.02677, section 2.2.
"""

from __future__ import annotations

import math

from sgenet.errors import ConfigError
from sgenet.training.settings import TrainingSettings

__all__ = ["learning_rate_factor", "steps_per_epoch"]


def learning_rate_factor(config: TrainingSettings, step: int, steps_per_epoch: int) -> float:
    """What `config.peak_lr` is multiplied by in a step.

    The warm-up of n steps grows linearly: its first step has 1 / (n + 1) of the full rate, and the step after it the
    full one. It takes no more than half of the training, so that a recipe can be tried for an epoch. The cosine runs
    over the steps that remain, and would reach `min_lr` in the step after the last one.

    Args:
        config: Settings; `plateau` is not a function of the step, and has factor 1 here.
        step: Optimisation steps done before this one.
        steps_per_epoch: Steps in an epoch.

    Returns:
        The factor.

    Examples:
        >>> config = TrainingSettings(epochs=4, schedule="step", milestones=(2,), warmup_epochs=0)
        >>> [learning_rate_factor(config, step, 1) for step in range(4)]
        [1.0, 1.0, 0.1, 0.1]
    """
    total = config.epochs * steps_per_epoch
    warmup = config.warmup_length(steps_per_epoch)
    if step < warmup:
        return config.warmup_factor(step, warmup)
    if config.schedule == "cosine":
        lowest = config.min_lr / config.peak_lr
        share = min(1.0, (step - warmup) / (total - warmup))
        return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * share))
    if config.schedule == "step":
        passed = sum(step >= milestone * steps_per_epoch for milestone in config.milestones)
        return float(config.gamma**passed)
    return 1.0


def steps_per_epoch(images: int, config: TrainingSettings) -> int:
    """Optimisation steps in an epoch: whole batches, but at least one.

    Args:
        images: In the training set.
        config: Settings.

    Returns:
        The steps.

    Raises:
        ConfigError: If the only step would be of fewer passes than `accumulate`, each of which counts for that share.

    Examples:
        >>> steps_per_epoch(100, TrainingSettings(batch_size=32))
        3
    """
    if images < config.batch_size and config.accumulate > 1:
        raise ConfigError(
            f"batch_size={config.batch_size} in accumulate={config.accumulate} passes needs as many training images, "
            f"and there are {images}; lower batch_size to {images} or less, or set accumulate=1"
        )
    return max(1, images // config.batch_size)
