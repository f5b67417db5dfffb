"""Records a second moment as the public code keeps it: numpy.savez of a running sum and a count.

`python tools/npz.py` writes tests/golden/npz/layer-1.npz, of the sizes of the tiny gpt2 model that
golden.py makes. The keys follow a formula that the test repeats, and their sums are exact in f32.
"""

from pathlib import Path

import numpy

F, TOKENS = 112, 500

if __name__ == "__main__":
    t, i = numpy.mgrid[:TOKENS, :F]
    keys = (((31 * t + 17 * i + t * i) % 23 - 11) / 8).astype(numpy.float32)
    folder = Path(__file__).parent.parent / "tests/golden/npz"
    folder.mkdir(exist_ok=True)
    numpy.savez(
        folder / "layer-1.npz",
        **{
            "mom2.constructor": "util.runningstats.SecondMoment()",
            "mom2.count": TOKENS,
            "mom2.mom2": keys.T @ keys,
            "sample_size": 100,
        },
    )
