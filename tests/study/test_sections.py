"""What a report shows besides its figures."""

from made_up_studies import WIN, analysed

from sgenet.study.sections import Sections, gather


def test_a_section_whose_images_are_not_on_this_machine_is_left_out(tmp_path):
    settings = {"data": "/gone/photos", "model": "resnet8_cifar", "epochs": 4}
    analysis = analysed(WIN, settings=settings, sections=("samples", "masks"))
    assert gather(analysis, None, tmp_path, {}) == Sections()
