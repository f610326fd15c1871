"""The float row of the rounding benchmark: the trained network as it is."""

from harness.peer import Marks, trained_network
from harness.rounding_peer import IMPORTED, QUANTIZED, READY, rounding_parser, write_row


def main() -> None:
    given = rounding_parser(__doc__, ("float",)).parse_args()
    marks = Marks()
    import torch  # noqa: F401 - imports are measured apart

    marks.reach(IMPORTED)
    model = trained_network(given.network)
    marks.reach(READY)
    marks.reach(QUANTIZED)
    write_row(given, marks, model, {})


if __name__ == "__main__":
    main()
