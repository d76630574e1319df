package org.palmtop.core.media;

/** A decoded picture, read row by row: on Android a Bitmap, upright, by {@code getPixels}. */
public interface PixelRows {
    int width();

    int height();

    /** Fill {@code argb} with row {@code y}: 8 bits each of alpha (not multiplied in), red, green and blue. */
    void row(int y, int[] argb);
}
