"""Raw text, images and sounds become token ids and arrays, as a bundle's ProcessorSpec says."""
