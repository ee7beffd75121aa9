"""The papers' studies: every variant can be built."""

import pytest
from conftest import tiny_backbone

from sidetune.methods import adaptation
from sidetune.runs.studies import STUDIES, find_study


@pytest.mark.filterwarnings("ignore:L-Share")
@pytest.mark.parametrize("name", STUDIES)
def test_every_variant_of_a_study_fits_a_network(name):
    backbone = tiny_backbone("swin" if name == "dtlv2-connection" else "vit")
    variants = find_study(name)(backbone)
    assert len(variants) > 2
    for method in variants.values():
        adaptation(method, backbone)
