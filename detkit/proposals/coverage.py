"""What can be learnt of proposals: how many of them overlap an object, and by how much."""

from __future__ import annotations

from torch import Tensor

from detkit.errors import DetkitError

STEPS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def coverage(of_objects: Tensor, of_proposals: Tensor, positive_thresh: float) -> str:
    """Return a line on how many objects have a proposal to learn from; "" without any object.

    `of_objects` (R,) and `of_proposals` (P,) are their best IoUs with one of the other kind, and
    a proposal is a positive example from `positive_thresh` on. Raises DetkitError when none is.
    """
    if not len(of_objects):
        return ""
    covered = int((of_objects >= positive_thresh).sum())
    if not covered:
        reached = ", ".join(
            f"{int((of_proposals >= step).sum())} of {step:g}"
            for step in STEPS
            if step < positive_thresh
        )
        best = float(of_objects.max())
        raise DetkitError(
            f"nothing to learn from: none of {len(of_proposals)} proposals has an IoU of "
            f"{positive_thresh:g} with one of {len(of_objects)} objects; the best has {best:.2f}"
            f"{f', and of at least so much: {reached}' if reached else ''}; take others (--set "
            "proposals=edge-boxes, --set max_proposals=N, --proposals FILE; `detkit recall` "
            "compares them) or lower --set positive_thresh"
        )
    share = covered / len(of_objects)
    return (
        f"{covered} of {len(of_objects)} objects ({share:.1%}) have a proposal with an IoU of "
        f"{positive_thresh:g} and more"
    )
