package org.palmtop.core.media;

import java.nio.FloatBuffer;

/** An image as inputs of the vision graph, of one kind of processor ({@code processor/images/__init__.py}). */
public interface PreparedImage {
    /** Views of the image, over all runs. */
    int views();

    /** Names of the graph's outputs. */
    String[] outputs();

    /** The run that begins with this view, of at most so many. */
    ImageBatch batch(int first, int atMost);

    /** Write the rows of a run where they are read: {@code into} holds all rows of the image, from its position 0. */
    void place(ImageBatch batch, float[][] outputs, int hiddenSize, FloatBuffer into);
}
