"""What a benchmark takes, and what it refuses before it starts."""

import pytest

from sgenet.bench import BenchSettings
from sgenet.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "trian"}, "Did you mean 'train'"),
        ({"dtype": "bf16"}, "Choose one of float32, bfloat16, float16"),
        ({"layout": "nhwc"}, "channels_last, contiguous"),
        ({"batch": 0}, "batch=0 must be at least 1"),
        ({"size": 0}, "size=0 must be at least 1"),
        ({"pairs": 4}, "pairs=4 must be at least 5"),
        ({"seconds": 0}, "time=0 must be above 0"),
        ({"seconds": float("nan")}, "must be above 0"),
        ({"attention": ()}, "no attention is named"),
        ({"freeze": True}, "give --compile too"),
        ({"mode": "train", "optimize": True}, "optimize makes constants"),
        ({"mode": "train", "compile": True, "freeze": True}, "freeze makes constants"),
        ({"module": "eca"}, "Choose one of sge, se"),
        ({"module": "sge", "compile": True, "size": 64}, "nothing for size, compile"),
    ],
)
def test_what_cannot_be_measured_is_one_clear_line(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        BenchSettings(**options)
    assert "\n" not in str(caught.value)


def test_what_a_module_is_measured_with_may_be_chosen():
    settings = BenchSettings(module="se", dtype="bfloat16", batch=2, layout="contiguous", pairs=5, seconds=1)
    assert settings.module == "se"
