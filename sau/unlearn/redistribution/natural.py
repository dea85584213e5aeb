"""Natural redistribution: the survivors' step that forgets most for what it changes on rows to be kept.

Our own reading of arXiv 2602.00577, with the natural gradient's input factor (K-FAC, Martens and Grosse 2015, arXiv
1503.05671) restricted to the survivors.
Shape suffixes: O output features, I input features, S survivors of one matrix.
"""

from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from sau.training.optimizer import Survivors
from sau.unlearn.redistribution.least_squares import InputAware, solve_on_survivors, with_length_of


class Natural(InputAware):
    """Minimises 1/2 || D X ||^2 - <step, D> over steps D that are zero where pruned, in every output row.

    X are the layer's inputs on `num_rows` retain rows before unlearning, H = X X^T plus `damping` of its mean
    diagonal: D goes along AdamW's step, and pays for every change of what the layer puts out on rows to be kept. The
    minimum is D_S = (H_SS)^-1 step_S. That is also the survivors' step that best imitates, in the layer's outputs on
    those rows, the natural step U = step H^-1 of the dense matrix: the minimum of || (D - U) X ||^2. Masking U instead
    would lose what it asks of pruned weights; here survivors with similar inputs carry it.

    Each row's step keeps AdamW's length, so only its direction changes. `num_iterations` of conjugate gradients from
    zero: so few are a damping of their own, since directions that retain rows hardly use are solved last.
    Cost: one I x I matrix per layer held, and per step num_iterations products of O x I with I x I, as much as a
    forward pass over num_iterations * I tokens.
    """

    reads_gradient = False
    name: Literal["natural"] = "natural"
    num_iterations: int = Field(4, ge=1, le=10_000)

    def redistribute(self, layer: Survivors, step_S: Tensor, state: Any) -> Tensor:
        step_OI = layer.scatter(step_S)
        taken_OI = solve_on_survivors(step_OI, state[layer.name], layer.kept_OI, self.num_iterations)
        return layer.gather(with_length_of(step_OI, taken_OI))
