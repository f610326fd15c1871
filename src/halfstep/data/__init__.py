"""Where inputs come from: arrays, files, image folders, loaders, an import path, the embedded digits.

`as_data` takes Python objects, `load_data` takes what a user writes on the command line. Both give a `Data`, which can be passed over as
often as wanted, in batches, and never holds more than one batch of what it reads (an .npz file excepted: it is decompressed whole, once).
"""

from halfstep.data.load import as_data, load_data
from halfstep.data.preprocessing import Preprocessing
from halfstep.data.source import Batch, Data

__all__ = ["Batch", "Data", "Preprocessing", "as_data", "load_data"]
