"""What users read when something goes wrong."""

import pytest
from torch.utils.data import DataLoader, Dataset

from fapn_d2.messages import message_of


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
