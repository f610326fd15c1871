"""halfstep's shipped recipe, from a torch module to a verified int8 ONNX file (the check in ONNX Runtime is part of the time)."""

from harness.peer import Marks, calibration_images, one_thread_sessions, peer_parser, trained_network


def main() -> None:
    parser = peer_parser(__doc__)
    parser.add_argument("--recipe", default="int8")
    given = parser.parse_args()
    marks = Marks()
    one_thread_sessions()
    import torch

    import halfstep as hs

    marks.reach("imported")
    model = trained_network(given.network)
    images = torch.from_numpy(calibration_images(given.calibration))
    marks.reach("model in memory")
    result = hs.quantize(model, calibration=images, recipe=given.recipe, samples=len(images))
    marks.reach("quantized")
    hs.export.onnx(result, given.out)
    marks.reach("file on disk")
    marks.write(given.marks)


if __name__ == "__main__":
    main()
