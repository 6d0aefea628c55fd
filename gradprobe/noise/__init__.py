"""Random numbers keyed by seed, image, draw and use: equal in any batch, order, worker and on any device."""

from gradprobe.noise.keyed import GENERATORS as GENERATORS
from gradprobe.noise.keyed import HOST as HOST
from gradprobe.noise.keyed import PHILOX as PHILOX
from gradprobe.noise.keyed import Noise as Noise
from gradprobe.noise.keyed import Stream as Stream
