"""Where the forms of `tlflax.ops.conv_forward` begin to pay, as measured.

2 cores with AVX-512, jax 0.10.2, November 2026, `scripts/measure_convolutions.py`: CPU
milliseconds per core for a batch of 4 (18x18 and 9x9: 16) with a bias and ReLU behind, the
machine shared with others. "-" was not measured, ``*`` is what is chosen. These were measured with
XLA's default library; without it (`tlflax.train.compiler`) whole networks were compared, images/s
of a forward pass with the limits below, without `tiled`, without `matmul` and `columns`, all
native: VGG16 25.9, 20.1, 25.6, 20.4; ResNet50 56.1, 55.6, 54.6, 54.1; InceptionV3 126, 122, 127,
128.

| map, channels, kernel/stride, padding | native | tiled | matmul, columns |
|---|---|---|---|
| 150x150 64->64 3x3 | 26* | 33 | - |
| 75x75 64->128 3x3 | 13.9 | 10.7* | - |
| 75x75 128->128 3x3 | 26.9 | 20.2* | - |
| 37x37 256->256 3x3 | 25.5 | 16.8* | - |
| 18x18 512->512 3x3 | 106 | 63* | - |
| 9x9 512->512 3x3 | 28 | 19.7* | 26 |
| 5x5 512->512 3x3 | 2.6* | - | 2.4 |
| 16x16 64->96 3x3 | 0.5* | - | - |
| 10x10 256->256 3x3 | 2.0* | 2.5 | 2.6 |
| 20x20 128->128 3x3 | 1.9* | 1.8 | 3.0 |
| 14x14 512->512 3x3 | 16.7 | 13.0* | 18.4 |
| 74x74 32->32 3x3 VALID | 4.7* | - | - |
| 35x35 80->192 3x3 VALID | 7.7 | 4.3* | - |
| 16x16 288->384 3x3/2 VALID | 2.8 | - | 2.0* |
| 5x5 2048->512 1x1 | 1.5 | - | 0.9* |
| 5x5 512->2048 1x1 | 1.3 | - | 1.0* |
| 10x10 1024->2048 1x1/2 | 2.4 | - | 1.9* |
| 40x40 256->64 1x1 | 1.5 | - | 1.3* |
| 40x40 64->256 1x1 | 1.0* | - | 1.2 |
| 7x7 160->160 1x7 and 7x1 | 0.4* | - | 0.4 |

For the first layers (150x150, 3 or 64 channels) rows or columns of slices as channels cost two to
four times the native time: the slices are larger than the cache.
"""

# A 1x1 kernel is a plain matrix product from here on.
MATMUL_CHANNELS = 256
# `tiled` trades products for passes over the map: channels in, in times out, and multiplications
# for one image and place in the kernel. Below that, its dozen small loops are not worth compiling.
TILED_CHANNELS = 64
TILED_PRODUCT = 64 * 128
TILED_WORK = 15_000_000
# Output pixels of one image below which transforming the kernel costs more than it saves.
TILED_AREA = 64
# Rows computed over rows wanted; 12/9 is still worth it with 512 channels (28 -> 20 ms at 9x9).
TILED_WASTE = 1.34
# `columns`, for strided kernels: many channels (long sums) on maps that stay in the cache.
COLUMNS_CHANNELS = 256
COLUMNS_AREA = 400
