"""From a client's frame to the pixels that a network takes: headers, decoding, fitting."""
