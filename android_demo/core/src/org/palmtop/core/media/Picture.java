package org.palmtop.core.media;

/**
 * An image of a message. It is opened each time its pixels are needed and not held in between, so that a dialogue
 * with many photos stays small.
 */
public abstract class Picture extends MediaItem {
    /** Size of the file's image, before any reduction while decoding; it decides the tiles. */
    public final int width;
    public final int height;

    protected Picture(String key, int width, int height) {
        super("image", key);
        this.width = width;
        this.height = height;
    }

    /** The pixels, reduced by a whole factor at most {@link PhotoPolicy#sampleSize}. */
    public abstract PixelRows open();
}
