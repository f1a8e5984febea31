"""What users read when something goes wrong."""

import pytest
from torch.utils.data import DataLoader, Dataset

from fapn_d2.messages import message_of, nearest, some


class Broken(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise OSError("cut short")
        except OSError as error:
            raise ValueError("image 1.png cannot be read: cut short\nand so on") from error


def test_an_error_of_a_loader_process_is_its_own_text():
    with pytest.raises(ValueError, match="Original Traceback") as raised:
        list(DataLoader(Broken(), num_workers=1))
    assert message_of(raised.value) == "image 1.png cannot be read: cut short\nand so on"
    assert message_of(ValueError("Caught it")) == "Caught it"


def test_few_of_many_names():
    assert some(["c", "a", "b"]) == "a, b, c"
    assert some(["c", "a", "b", "d"]) == "a, b, c and 1 more"
    assert some(["c", "a", "b"], 1, sort=False) == "c and 2 more"


def test_nearest_names():
    assert nearest("fanp", ["fpn", "fapn", "sfnet"], limit=1) == "; nearest: fapn"
    assert nearest("zzz", ["fpn"], otherwise="; allowed: fpn") == "; allowed: fpn"
