package org.palmtop.core.media;

import java.nio.ByteBuffer;

/** Inputs of one run of the vision graph, and how many feature rows each of its outputs has. */
public final class ImageBatch {
    /** Element type of an input. */
    public enum Element {
        FLOAT,
        BOOL,
        INT64
    }

    public final int first;
    public final int views;
    public final String[] names;
    public final ByteBuffer[] inputs;
    public final long[][] shapes;
    public final Element[] elements;
    public final int[] rows;

    ImageBatch(
            int first, int views, String[] names, ByteBuffer[] inputs, long[][] shapes, Element[] elements, int[] rows) {
        this.first = first;
        this.views = views;
        this.names = names;
        this.inputs = inputs;
        this.shapes = shapes;
        this.elements = elements;
        this.rows = rows;
    }
}
