"""The paper's testbed with emulated GPUs: its problem, its systems, its points."""
