"""ONNX files of the sentence encoder in ONNX Runtime: embeddings beside those of the float file, and milliseconds for a sentence.

    python -m harness.encoder_evaluation --out evaluation.json --rounds 40 float=float.onnx halfstep=halfstep.onnx

One thread, every file at once in one process. Latency: a sentence at a time, files in turn (`harness.latency`). Sessions are opened with
their defaults: what ONNX Runtime does with a file is part of the comparison.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from harness.encoder import embeddings, tokens
from harness.latency import figures, measure, named_path
from harness.sentences import pairs, sentences


def encode(path: Path, ids: np.ndarray[Any, Any], mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The embeddings of all sentences, 32 at a time."""
    from harness.latency import open_session

    session = open_session(path)
    names = [value.name for value in session.get_inputs()]
    parts = [
        session.run(None, dict(zip(names, (ids[first : first + 32], mask[first : first + 32]), strict=True)))[0]
        for first in range(0, len(ids), 32)
    ]
    return embeddings(np.concatenate(parts), mask)


def compared(found: np.ndarray[Any, Any], exact: np.ndarray[Any, Any], texts: list[str]) -> dict[str, float]:
    """cosine: of each embedding with float's, mean and least. spearman: of the similarities of all pairs with float's, and with the grades
    that the sentences were written for.
    """
    place = {text: index for index, text in enumerate(texts)}
    graded = pairs()
    firsts, seconds = ([place[pair[side]] for pair in graded] for side in (0, 1))
    similar, expected = ((table[firsts] * table[seconds]).sum(1) for table in (found, exact))
    cosine = (found * exact).sum(1)
    return {
        "cosine_mean": float(cosine.mean()),
        "cosine_min": float(cosine.min()),
        "spearman": float(spearmanr(similar, expected)[0]),
        "spearman_grades": float(spearmanr(similar, [pair.grade for pair in graded])[0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=named_path, help="name=file.onnx; the first is the float file")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    models, texts = dict(given.models), sentences()
    ids, mask = tokens(texts)
    exact = encode(next(iter(models.values())), ids, mask)
    rows = {name: compared(encode(path, ids, mask), exact, texts) | {"bytes": path.stat().st_size} for name, path in models.items()}
    times = figures(measure(models, given.rounds, 0, (ids[:1], mask[:1]))) if given.rounds else {}
    given.out.write_text(json.dumps({name: row | times.get(name, {}) for name, row in rows.items()}))


if __name__ == "__main__":
    main()
