"""The data room: cards, sources, rendering, masking, packing."""
