"""Prints the result of an export."""

from typing import Any

from vit_jax_tricks.console import banner, say
from vit_jax_tricks.export.exporting import Exported


LOSS = 0.005  # loss of accuracy, in 0..1, that is reported


def show(made: Exported) -> None:
    """Prints the comparison, and the losses of INT8."""
    result, int8 = made.to_json(), made.int8
    rows = {"file": f"{result['file']}, {result['megabytes']:.2f} MB"}
    if int8:
        rows["float file"] = f"{result['megabytes_float']:.2f} MB"
    rows["compared on"] = result["compared_on"]
    for name in ("jax", "fake_quant", "float"):
        if found := result.get(name):
            rows[f"against {name}"] = (
                f"max difference {found['max_difference']:.2e}, "
                f"top-1 agreement {found['top1_agreement']:.2%}"
            )
            if "accuracy" in found:
                rows[f"accuracy beside {name}"] = (
                    f"{found['accuracy']:.2%} beside {found['accuracy_reference']:.2%}"
                )
    file, other = result["latency_ms"]
    for size, milliseconds in result["latency_ms"][file].items():
        beside = result["latency_ms"][other][size]
        rows[f"batch {size}"] = (
            f"{milliseconds:.1f} ms, {other} {beside:.1f} ms: "
            f"{beside / milliseconds:.2f}x"
        )
    if int8:
        rows["int8 products"] = result["int8_products"]
        problems = result["tensorrt_problems"]
        kept = "kept" if not problems else f"{len(problems)} broken: {problems[0]}"
        rows["TensorRT's rules"] = f"{kept} (TensorRT itself: not run here)"
    banner("exported", rows)
    for line in losses(result) if int8 else ():
        say(line)


def losses(result: dict[str, Any]) -> list[str]:
    """One line for each way in which INT8 is worse than float."""
    found = []
    slow = [
        str(size)
        for size, milliseconds in result["latency_ms"]["onnx"].items()
        if milliseconds >= result["latency_ms"]["float"][size]
    ]
    if slow:
        found.append(f"INT8 loses: not faster than float at batch {', '.join(slow)}.")
    accuracy = result["float"].get("accuracy")
    if accuracy is not None:
        lost = result["float"]["accuracy_reference"] - accuracy
        if lost > LOSS:
            found.append(
                f"INT8 loses {100 * lost:.1f} points of accuracy: fine-tune it with "
                "quantised weights and activations."
            )
    return found
