"""Files that decide a model's inputs are part of a training: edited, it is another training."""

import pytest
import torch

from gradprobe.vlm.inputs import inputs_fingerprint
from gradprobe.vlm.model import open_vlm

CHANGES = {
    "normalisation": lambda vlm: setattr(vlm.processor.image_processor, "image_mean", [0.5] * 3),
    "chat template": lambda vlm: setattr(vlm.processor, "chat_template", "{{ messages }}"),
    "tower's layer": lambda vlm: setattr(vlm.model.config, "vision_feature_layer", -2),
    "a token": lambda vlm: vlm.processor.tokenizer.add_tokens(["nine-and-a-half"]),
    "generation": lambda vlm: setattr(vlm.model.generation_config, "max_new_tokens", 3),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_what_the_model_sees_or_says_is_seen(name):
    vlm = open_vlm("scenes-vlm")
    before = inputs_fingerprint(vlm)
    CHANGES[name](vlm)
    assert inputs_fingerprint(vlm) != before


def test_use_and_place_of_a_model_do_not_count(tmp_path):
    vlm = open_vlm("scenes-vlm")
    before = inputs_fingerprint(vlm)
    image = torch.zeros(3, 80, 80)
    vlm.processor(images=[image, image], text=["<image> is", "<image> is it ?"], padding=True, return_tensors="pt")
    assert inputs_fingerprint(vlm) == before
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    one = inputs_fingerprint(open_vlm(str(tmp_path)))
    tmp_path.rename(tmp_path.with_name("moved"))
    assert inputs_fingerprint(open_vlm(str(tmp_path.with_name("moved")))) == one
