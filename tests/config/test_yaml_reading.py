"""A YAML file cannot run code; Detectron2's Base-RetinaNet gives the values that it gives in Detectron2."""

import os
from pathlib import Path

import pytest
import yaml
from detectron2.config import get_cfg

from fapn_d2.config.loading import load_config
from fapn_d2.config.yaml_reading import number_list, read_yaml

from .test_loading import detectron2_config

#: What runs under ``yaml.unsafe_load``; {0} is a file that would appear.
RUNNING = [
    '!!python/object/apply:os.system ["touch {0}"]',
    '!!python/object/apply:subprocess.check_call [["touch", "{0}"]]',
    "!!python/object/apply:eval [\"__import__('os').system('touch {0}')\"]",
    "!!python/object/apply:eval [\"[open('{0}', 'w') for x in [1]]\"]",
    "!!python/object/apply:builtins.eval [\"open('{0}', 'w')\"]",
    '!!python/object/new:os.system ["touch {0}"]',
    "!!python/object/apply:exec [\"open('{0}', 'w')\"]",
]


@pytest.mark.parametrize("text", RUNNING)
@pytest.mark.parametrize("base", [False, True])
def test_nothing_runs(tmp_path, text, base):
    mark = tmp_path / "ran"
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(f"SEED: {text.format(mark)}")
    row = tmp_path / "row.yaml"
    row.write_text("_BASE_: wrong.yaml")
    with pytest.raises(ValueError, match=r"wrong.yaml contains a YAML tag that is not read, because it could run code"):
        load_config(str(row if base else wrong))
    assert not mark.exists()


def test_the_same_texts_do_run_elsewhere(tmp_path):
    """Or the test above would show nothing."""
    mark = tmp_path / "ran"
    yaml.unsafe_load(RUNNING[0].format(mark))
    assert mark.exists()


def test_base_retinanet_as_in_detectron2():
    path = detectron2_config("Base-RetinaNet.yaml")
    if not os.path.exists(path):
        pytest.skip("this Detectron2 comes without the model zoo's files")
    expected = get_cfg()
    expected.merge_from_file(path, allow_unsafe=True)
    assert load_config(path).MODEL.ANCHOR_GENERATOR.SIZES == expected.MODEL.ANCHOR_GENERATOR.SIZES
    text = Path(path).read_text()
    assert read_yaml(text) == yaml.unsafe_load(text)


def test_lists_of_numbers():
    assert number_list("[[x, -x / 2, x ** 2 - 1] for x in [1, 2.5]]") == [[1, -0.5, 0], [2.5, -1.25, 5.25]]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("3", "is not a list"),
        ("[x]", "'x' is not allowed"),
        ("[1].copy()", "not allowed"),
        ("['a']", "not allowed"),
        ("[True]", "not allowed"),
        ("[[1] * 1000000000]", "is a list where a number is needed"),
        ("[9 ** 9 ** 9]", "above 64"),
        ("[1 / 0]", "cannot be computed: division by zero"),
        ("[x for x in [1] if x]", "not allowed"),
        ("[", "cannot be computed"),
    ],
)
def test_other_expressions_are_refused(expression, message):
    with pytest.raises(ValueError, match=message):
        number_list(expression)
