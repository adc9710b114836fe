"""Masks in the report are the gates the network computes; samples are the data's first images."""

import base64
import io

import numpy as np
import torch
from PIL import Image
from torch import nn

import sgenet
from sgenet.data import ArraySource
from sgenet.study.pictures import data_samples, group_masks, mask_gallery


def decode(uri):
    kind, data = uri.split(",", 1)
    assert kind == "data:image/png;base64"
    return torch.from_numpy(np.array(Image.open(io.BytesIO(base64.b64decode(data))))).movedim(-1, 0)


def to_input(batch):
    return batch.float() / 255


def test_group_masks_are_what_the_modules_multiply_with(attentive):
    x = torch.rand(2, 3, 32, 32)
    seen = {}
    for name, module in attentive.named_modules():
        if isinstance(module, sgenet.SpatialGroupEnhance):
            module.register_forward_hook(lambda m, i, o, name=name: seen.__setitem__(name, (i[0].clone(), o.clone())))
    masks = group_masks(attentive, x)
    assert list(masks) == list(seen)
    for name, (before, after) in seen.items():
        groups = attentive.get_submodule(name).groups
        shaped = before.unflatten(1, (groups, -1)) * masks[name].unsqueeze(2)
        torch.testing.assert_close(shaped.flatten(1, 2), after)
    for module in attentive.modules():
        module._forward_hooks.clear()


def test_group_masks_leave_no_hook_behind(attentive):
    group_masks(attentive, torch.rand(1, 3, 32, 32))
    assert not any(module._forward_pre_hooks for module in attentive.modules())


def test_gallery_shows_the_groups_that_vary_most(attentive, source):
    gallery = mask_gallery(attentive, source, to_input, run="r", images=3, groups_each=2)
    batch = to_input(torch.stack([source.load(i) for i in range(3)]))
    masks = group_masks(attentive, batch)
    expected = []
    for site, values in masks.items():
        spread = [(values[:, g].flatten(1).std(1).mean().item(), g) for g in range(values.shape[1])]
        expected += [(site.removesuffix(".attention"), g) for _, g in sorted(sorted(spread)[-2:], key=lambda p: p[1])]
    assert [(c.site, c.group) for c in gallery.columns] == expected
    assert [row.index for row in gallery.rows] == [0, 1, 2]
    for column, values in zip(gallery.columns, [masks[s + ".attention"][:, g] for s, g in expected], strict=True):
        assert column.lower == float(values.min())
        assert column.upper == float(values.max())
        assert column.size == tuple(values.shape[-2:])


def test_gallery_predictions_are_the_networks(attentive, source):
    gallery = mask_gallery(attentive, source, to_input, run="r", images=2)
    with torch.no_grad():
        logits = attentive(to_input(torch.stack([source.load(0), source.load(1)])))
    for row, own in zip(gallery.rows, logits.softmax(1), strict=True):
        assert row.predicted == source.classes[int(own.argmax())]
        assert abs(row.probability - float(own.max())) < 1e-5


def test_overlay_is_brightest_where_the_gate_is_open():
    class Bright(nn.Module):  # a gate that opens on the right half of the image
        def __init__(self):
            super().__init__()
            self.attention = sgenet.SpatialGroupEnhance(4, groups=1)
            nn.init.constant_(self.attention.weight, 3.0)

        def forward(self, x):
            return self.attention(x.mean(1, keepdim=True).expand(-1, 4, -1, -1)).mean((2, 3))

    image = torch.full((1, 3, 16, 16), 60, dtype=torch.uint8)
    image[..., 8:] = 200
    gallery = mask_gallery(
        Bright(), ArraySource(image, torch.zeros(1, dtype=torch.int64), list("abcd")), to_input, run="r"
    )
    picture = decode(gallery.rows[0].masks[0]).int()
    red, _, blue = (channel.float() for channel in picture)
    assert (red - blue)[:, 10:].mean() > 60  # yellow: the upper end of viridis
    assert (red - blue)[:, :6].mean() < 0  # violet: the lower end
    bar = decode(gallery.bar)
    assert bar[:, 0, 0].tolist() == [68, 1, 84]
    assert bar[:, 0, -1].tolist() == [253, 231, 37]


def test_samples_are_the_first_images_of_each_class(source):
    samples = data_samples(source, each=2)
    assert [sample.name for sample in samples] == source.classes
    assert torch.equal(decode(samples[1].images[1]), source.load(4))
