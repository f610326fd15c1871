"""The float row: the trained network, exported and nothing else."""

from harness.peer import Marks, calibration_images, peer_parser, trained_network


def main() -> None:
    parser = peer_parser(__doc__)
    parser.add_argument("--exporter", default="dynamo")
    given = parser.parse_args()
    marks = Marks()
    import torch

    from harness.torch_onnx import export

    marks.reach("imported")
    model = trained_network(given.network)
    images = torch.from_numpy(calibration_images(given.calibration)[:2])
    marks.reach("model in memory")
    export(model, images, given.out, given.exporter)
    marks.reach("file on disk")
    marks.write(given.marks)


if __name__ == "__main__":
    main()
