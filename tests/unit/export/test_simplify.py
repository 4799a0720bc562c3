import onnx_ir
import pytest
import torch
from onnxscript import optimizer

from export.simplify import simplify
from latent_pmrf.config import SwinIRConfig
from tests.tiny_runs import tiny

pytestmark = pytest.mark.timeout(300)  # the exporter takes seconds a network, more beside other work


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of PyTorch's exporter about itself
def test_a_graph_becomes_what_pytorch_s_exporter_would_have_made_of_it():
    """Except for a pair of Slices that Split could do, which none of our networks has."""
    network = tiny(
        SwinIRConfig(upsample_width=8, embed_dim=16, depths=(2,), num_heads=(2,), window_size=4, unshuffle=2)
    )
    batch = {0: torch.export.Dim("batch")}
    program = torch.onnx.export(
        network, (torch.zeros(3, 3, 16, 16),), dynamic_shapes=(batch,), opset_version=18, optimize=False, verbose=False
    )
    fresh = onnx_ir.serde.serialize_model(program.model)
    ours, theirs = (onnx_ir.serde.deserialize_model(fresh) for _ in range(2))
    simplify(ours)
    optimizer.optimize_ir(theirs)
    made = onnx_ir.serde.serialize_model(ours)
    assert made == onnx_ir.serde.serialize_model(theirs)
    assert len(made.graph.node) < len(fresh.graph.node)
