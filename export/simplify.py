"""onnxscript's optimisation of a fresh export, without the one rule that takes the square of a graph's length.

PyTorch's exporter would run the same passes by itself. One of their rules, two Slices to one Split, goes through the
whole graph again at every node: half the time of an estimator of fifty blocks, for a form that our networks do not
have. Every other pass is run here as it is run there, so that the graph is the same to the byte.
"""

from __future__ import annotations

import onnx_ir
from onnx_ir.passes import common
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules.common import slice_split_rule

_RULES = tuple(rule for rule in rewriter._DEFAULT_REWRITE_RULES if rule is not slice_split_rule)
_ROUNDS = 2
"""At most; what a rule leaves behind may be constant."""


_KEPT = ".attn.scale"
"""Of cosine attention, a number a head: small enough to be folded with what follows, and nobody could read it again."""


def simplify(model: onnx_ir.Model) -> None:
    """Fold constants, apply the rules, drop what nobody uses and say every constant once, in place."""
    kept = {name for name in model.graph.initializers if name.endswith(_KEPT)}
    rewriting = rewriter.RewritePass(_RULES)
    unused = (common.RemoveUnusedNodesPass(), common.RemoveUnusedOpsetsPass())
    common.InlinePass()(model)  # leaves no functions behind
    for _ in range(_ROUNDS):
        folded = optimizer.fold_constants_ir(
            model,
            onnx_shape_inference=True,
            should_fold=lambda node: False if any(value and value.name in kept for value in node.inputs) else None,
        ).modified
        rewritten = rewriting(model).modified
        dropped = [remove(model).modified for remove in unused]
        if not (folded or rewritten or any(dropped)):
            break
    for finish in (
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    ):
        finish(model)
