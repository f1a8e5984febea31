"""Names of maps that a backbone does not have."""

import pytest

from fapn_d2.heads.input_features import require_features


def test_names():
    require_features("KEY", ["p3", "p2"], {"p2": 1, "p3": 2})
    with pytest.raises(ValueError, match=r"KEY = \['p2', 'p9'\]: the backbone gives \['p2', 'p3'\], not \['p9'\]"):
        require_features("KEY", ["p2", "p9"], ["p2", "p3"])
    require_features("KEY", [], ["p2"], some=False)
    with pytest.raises(ValueError, match=r"KEY = \[\]: the backbone gives \['p2'\]; name at least one of them"):
        require_features("KEY", [], ["p2"])
