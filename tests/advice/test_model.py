"""The options of a model: those that were typed, and no others, stand in the command that an advice gives."""

import inspect

import pytest

from gradprobe.advice.model import OPTIONS, Model, on_training_images, places, typed
from gradprobe.advice.run import advise
from gradprobe.cli.advise import advise as command
from gradprobe.cli.retention import retention

GIVEN = {
    "backbone": "deit_tiny_patch16_224", "weights": "w.pth", "weights_key": "teacher", "image_size": (384, 288),
    "data": "val", "class_order": "text", "train_data": "train", "scorer": "transformer", "layer": 2, "loss": "kl",
    "device": "cuda", "dtype": "float64", "generator": "philox",
}  # fmt: skip


def test_defaults_are_not_written():
    assert typed(Model()) == {}
    assert typed(Model(task=object())) == {}  # an open task has no name
    assert typed(Model(task="scenes-vlm")) == {"task": "scenes-vlm"}


def test_what_was_typed_is_written_as_the_command_takes_it():
    words = typed(Model(**GIVEN))
    assert words["image-size"] == "384x288"
    assert (
        set(words)
        == {name.replace("_", "-") for name in GIVEN}
        == {o.replace("_", "-") for o in (*OPTIONS, "backbone")}
    )


@pytest.mark.parametrize("function", [advise, command, retention])
def test_every_option_is_one_of_the_function_and_the_commands(function):
    assert {*OPTIONS, "backbone"} <= set(inspect.signature(function).parameters)


def test_a_measure_of_the_fresh_scorer_sees_the_images_that_it_is_trained_on():
    given = Model(**GIVEN)
    swapped = on_training_images(given)
    assert (swapped.data, swapped.train_data, swapped.weights) == ("train", None, "w.pth")
    assert places(given) == {"weights": "w.pth", "data": "val", "train_data": "train", "device": "cuda"}
    assert places(swapped) == {"weights": "w.pth", "data": "train", "device": "cuda"}
    assert on_training_images(Model()) == Model()
