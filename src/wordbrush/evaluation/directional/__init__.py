"""InstructPix2Pix's curve: image similarity against directional similarity."""
