"""How near a reconstruction comes to the truth: per example, and never in favour of NaN."""

from seepage.metrics.nearness import exact_images, exact_numbers, psnr, recognisable_images, ssim
from seepage.metrics.pairing import match

__all__ = ["exact_images", "exact_numbers", "match", "psnr", "recognisable_images", "ssim"]
