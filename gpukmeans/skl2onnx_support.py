"""Estimators for skl2onnx, which knows scikit-learn's and is told of ours."""

from __future__ import annotations

from typing import Any

from gpukmeans.estimator import KMeans
from gpukmeans.minibatch import MiniBatchKMeans


def register_onnx() -> None:
    """Let skl2onnx convert `KMeans` and `MiniBatchKMeans`, alone or in pipelines, as it converts scikit-learn's.

    The converter is skl2onnx's own, given what `to_sklearn` makes; its option ``gemm`` holds. To call this again
    changes nothing.

    An ONNX model's labels are those of distances that its runtime computes, in float32 for float32 rows: between two
    centers that are almost equally near it may decide otherwise. With metric="cosine" the conversion raises ValueError,
    as `to_sklearn` does.

    Raises
    ------
    ImportError
        Without skl2onnx.

    Examples
    --------
    >>> import gpukmeans
    >>> gpukmeans.register_onnx()
    >>> from skl2onnx import to_onnx
    >>> model = gpukmeans.KMeans(2, random_state=0).fit([[1.0], [2.0], [9.0]])
    >>> [output.name for output in to_onnx(model, model.cluster_centers_).graph.output]
    ['label', 'scores']
    """
    try:
        from skl2onnx import update_registered_converter
        from skl2onnx.operator_converters.k_means import convert_sklearn_kmeans
        from skl2onnx.shape_calculators.k_means import calculate_sklearn_kmeans_output_shapes
    except ImportError as error:
        raise ImportError(f"register_onnx needs skl2onnx ({error}): pip install skl2onnx") from None

    def convert(scope: Any, operator: Any, container: Any) -> None:
        ours = operator.raw_operator
        theirs = ours.to_sklearn()
        options = container.get_options(ours, {"gemm": True})
        before = container.options
        container.options = {**(before or {}), id(theirs): options}
        operator.raw_operator = theirs
        try:
            convert_sklearn_kmeans(scope, operator, container)
        finally:
            operator.raw_operator, container.options = ours, before

    for kind in (KMeans, MiniBatchKMeans):
        update_registered_converter(
            kind,
            f"Gpukmeans{kind.__name__}",
            calculate_sklearn_kmeans_output_shapes,
            convert,
            options={"gemm": [True, False]},
        )
