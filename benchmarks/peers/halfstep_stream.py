"""halfstep on images streamed from ``train.npz``: all of them lie in the file, ``--samples`` of them are used to calibrate."""

import argparse
import json
import resource
from pathlib import Path

from harness.data import NETWORKS, data_folder, networks_module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    import torch

    import halfstep as hs

    torch.set_num_threads(1)
    networks = networks_module()
    mean, std = networks.NORMALIZATION[given.network]
    data = hs.load_data(str(data_folder() / "train.npz"), hs.Preprocessing(mean=mean, std=std))
    result = hs.quantize(networks.load_network(given.network), data, samples=given.samples)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    given.out.write_text(json.dumps({"peak_rss_bytes": peak, "seconds": result.record.seconds}))


if __name__ == "__main__":
    main()
